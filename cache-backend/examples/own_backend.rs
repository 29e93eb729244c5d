//! A backend of one's own with the guard: a table that is one millisecond away, and keeps no time.
use cache_backend::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
type Table = HashMap<Vec<u8>, Bytes>;
#[derive(Clone)]
struct Far {
    table: Arc<Mutex<Table>>,
    breaker: Arc<Breaker>,
}

impl Far {
    async fn ask<T>(self, batch: KeyValues, answer: fn(&mut Table, &[u8], &[u8]) -> T) -> Answers<T> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut table = self.table.lock().expect("nothing panics under it");
        batch.iter().map(|(key, value)| Ok(answer(&mut table, key, value))).collect()
    }
}

#[rustfmt::skip]
impl Session for Far {
    fn claim(&self, batch: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<Claimed>> {
        Box::pin(self.clone().ask(batch, |table, key, value| match table.get(key) {
            Some(found) => Claimed::Exists(found.clone()),
            None => { table.insert(key.into(), value.to_vec().into()); Claimed::Created }
        }))
    }
    fn set(&self, batch: KeyValues, _: Duration, _: Instant) -> BoxFuture<'static, Answers<()>> {
        Box::pin(self.clone().ask(batch, |table, key, value| drop(table.insert(key.into(), value.to_vec().into()))))
    }
    fn get(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
        Box::pin(self.clone().ask(keys, |table, key, _| table.get(key).cloned()))
    }
    fn del(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<bool>> {
        Box::pin(self.clone().ask(keys, |table, key, _| table.remove(key).is_some()))
    }
}

#[rustfmt::skip]
impl Backend for Far {
    fn name(&self) -> &'static str { "far" }
    fn session(&self) -> BoxFuture<'_, Result<Box<dyn Session>, OpenError>> {
        let guarded = Guarded::new(self.clone(), self.breaker.clone(), &RemoteSettings::for_claims());
        Box::pin(async { Ok(Box::new(guarded) as Box<dyn Session>) })
    }
    fn guards(&self) -> Vec<Arc<GuardStats>> { vec![self.breaker.stats().clone()] }
    fn healthy(&self) -> BoxFuture<'_, Result<(), OpError>> { Box::pin(async { self.breaker.stats().closed() }) }
    fn close(&self) -> BoxFuture<'_, ()> { Box::pin(async {}) }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let breaker = Breaker::new("far", "table-1", &RemoteSettings::for_claims());
    let store = Store::over(Arc::new(Far { table: Arc::default(), breaker })).await?;
    for worker in ["worker-a", "worker-b"] {
        println!("{:?}", store.set_nx("job:17", worker, Duration::ZERO).await?);
    }
    Ok(())
}
