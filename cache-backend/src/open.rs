//! From settings to a store that was seen to work.

use crate::{Backend, Memory, OpenError, Redis, Settings};
use std::sync::Arc;

/// Least size of `memory` that makes sense.
const MEMORY_MIN: usize = 1 << 20;

/// Opens what `settings` names: `None` for no backend. Fails closed: dials, writes a probe key, reads it back, and
/// names what failed. With `BootPolicy::Degraded` an unreachable store is not an error; its operations fail at once until
/// it is there.
pub async fn open(settings: Settings) -> Result<Option<Arc<dyn Backend>>, OpenError> {
    match settings {
        Settings::None => Ok(None),
        Settings::Memory { bytes } if bytes < MEMORY_MIN => Err(OpenError(format!(
            "memory: a store of {bytes} bytes is too small; at least {MEMORY_MIN} bytes are needed"
        ))),
        Settings::Memory { bytes } => Ok(Some(Arc::new(Memory::new(bytes)))),
        Settings::Redis(settings) => Ok(Some(Arc::new(Redis::open(*settings).await?))),
        #[cfg(feature = "aerospike")]
        Settings::Aerospike(settings) => Ok(Some(Arc::new(crate::Aerospike::open(*settings).await?))),
        #[cfg(not(feature = "aerospike"))]
        Settings::Aerospike(_) => Err(OpenError(
            "aerospike: this binary was built without it (cargo feature `aerospike`)".to_owned(),
        )),
    }
}
