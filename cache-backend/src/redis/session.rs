//! A worker's session: one connection to each server, batches split by owner, redirections followed.

use super::address::Endpoint;
use super::connection::DialError;
use super::dial::Target;
use super::fleet::{Fleet, Map};
use super::link::{Ask, Link, NAME, Route, read_claim, read_del, read_get, read_set};
use super::slots::Redirect;
use crate::guard::{Heard, vec_of_errors};
use crate::{Answers, Claimed, Guarded, KeyValues, OpError, OpErrorKind, Session};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all, ready};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A key that is still sent elsewhere after so many redirections has no answer.
const MAX_REDIRECTS: usize = 5;
/// Servers that redirections named and the map does not know yet; others are not followed. A slot moves to one server at a
/// time: more than these are named by a server that is out of its mind.
const MAX_GUESTS: usize = 16;

/// What is asked of each server.
trait Op<T>:
    Fn(&Guarded<NodeSession>, KeyValues, Instant) -> BoxFuture<'static, Answers<T>> + Send + 'static
{
}

impl<T, F> Op<T> for F where
    F: Fn(&Guarded<NodeSession>, KeyValues, Instant) -> BoxFuture<'static, Answers<T>> + Send + 'static
{
}

pub(super) struct RedisSession {
    nodes: Arc<Nodes>,
}

/// The connections of one session.
struct Nodes {
    fleet: Arc<Fleet>,
    runtime: Handle,
    current: Mutex<Arc<Routes>>,
}

/// The connections that fit one map of the fleet.
struct Routes {
    map: Arc<Map>,
    nodes: Vec<Arc<Node>>,
    /// Servers that a redirection named and the map does not know yet.
    guests: HashMap<Target, Arc<Node>>,
}

/// One server as this session sees it.
struct Node {
    target: Target,
    link: Arc<Link>,
    plain: Guarded<NodeSession>,
    /// The same connection with `ASKING` before every command.
    asking: Guarded<NodeSession>,
}

struct NodeSession {
    link: Arc<Link>,
    asking: bool,
}

impl RedisSession {
    /// Dials all servers; with `strict` each of them must answer.
    pub(super) async fn start(fleet: Arc<Fleet>, strict: bool) -> Result<RedisSession, DialError> {
        let runtime = Handle::current();
        let map = fleet.map();
        let mut first_dials = Vec::new();
        let mut nodes = Vec::new();
        for target in &map.targets {
            let (node, dialled) = Node::start(&fleet, &runtime, target);
            nodes.push(node);
            first_dials.push(dialled);
        }
        if strict {
            for dialled in first_dials {
                if let Ok(result) = dialled.await {
                    result?;
                }
            }
        }
        let routes = Arc::new(Routes { map, nodes, guests: HashMap::new() });
        let nodes = Arc::new(Nodes { fleet, runtime, current: Mutex::new(routes) });
        nodes.routes();
        Ok(RedisSession { nodes })
    }

    fn run<T: Send + 'static>(
        &self,
        batch: KeyValues,
        deadline: Instant,
        op: impl Op<T>,
    ) -> BoxFuture<'static, Answers<T>> {
        let routes = self.nodes.routes();
        match routes.nodes.as_slice() {
            [node] if routes.map.is_single() => op(&node.plain, batch, deadline),
            [] => {
                let (kind, why) = match self.nodes.fleet.is_closed() {
                    true => (OpErrorKind::Disconnected, "closed"),
                    false => (OpErrorKind::BreakerOpen, "no server is known yet"),
                };
                let error = OpError::not_done(NAME, kind, why);
                ready(vec_of_errors(batch.len(), &error)).boxed()
            }
            _ => {
                let mut parts = Vec::new();
                for (place, pair) in batch.iter().enumerate() {
                    if let Some(node) = routes.map.owner(pair.0).and_then(|owner| routes.nodes.get(owner)) {
                        Part::add(&mut parts, node, false, place, pair);
                    }
                }
                let sent = send(parts, &op, deadline);
                gather(self.nodes.clone(), batch, deadline, op, sent).boxed()
            }
        }
    }
}

impl Nodes {
    /// Connections for the map of now; those that are still wanted are kept.
    fn routes(self: &Arc<Nodes>) -> Arc<Routes> {
        let map = self.fleet.map();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current.map, &map) {
            let keep = |target: &Target| {
                let known = current.nodes.iter().chain(current.guests.values());
                known.into_iter().find(|node| node.target == *target).cloned()
            };
            let start =
                |target| keep(target).unwrap_or_else(|| Node::start(&self.fleet, &self.runtime, target).0);
            let nodes = map.targets.iter().map(start).collect();
            *current = Arc::new(Routes { map, nodes, guests: HashMap::new() });
        }
        if current.map.targets.is_empty() {
            self.fleet.refresh_soon(&self.runtime);
        }
        current.clone()
    }

    /// The server that a redirection names; dialled in the background if it is new. `None`: too many were named.
    fn node(self: &Arc<Nodes>, endpoint: &Endpoint) -> Option<Arc<Node>> {
        let target = Target::Node(endpoint.clone());
        let routes = self.routes();
        let known =
            routes.nodes.iter().find(|node| node.target == target).or_else(|| routes.guests.get(&target));
        if let Some(node) = known {
            return Some(node.clone());
        }
        if routes.guests.len() >= MAX_GUESTS {
            return None;
        }
        let (node, _) = Node::start(&self.fleet, &self.runtime, &target);
        let mut guests = routes.guests.clone();
        guests.insert(target, node.clone());
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(Routes { map: routes.map.clone(), nodes: routes.nodes.clone(), guests });
        Some(node)
    }
}

impl Node {
    fn start(
        fleet: &Arc<Fleet>,
        runtime: &Handle,
        target: &Target,
    ) -> (Arc<Node>, oneshot::Receiver<Result<(), DialError>>) {
        let probe_key = {
            // Weak: a connection must not keep the fleet alive.
            let (fleet, target) = (Arc::downgrade(fleet), target.clone());
            Box::new(move || {
                let fleet = fleet.upgrade()?;
                fleet.map().probe_key(&target, &fleet.dialer.remote.probe_prefix)
            })
        };
        let (breaker, remote) = (fleet.breaker(target), &fleet.dialer.remote);
        let route = Route {
            dialer: fleet.dialer.clone(),
            target: target.clone(),
            breaker: breaker.clone(),
            probe_key,
        };
        let (link, dialled) = Link::start(runtime, route);
        let link = Arc::new(link);
        let guarded =
            |asking| Guarded::new(NodeSession { link: link.clone(), asking }, breaker.clone(), remote);
        let node = Node { target: target.clone(), plain: guarded(false), asking: guarded(true), link };
        (Arc::new(node), dialled)
    }
}

/// The keys of a batch that go to one server, with their places in the whole.
struct Part {
    node: Arc<Node>,
    asking: bool,
    keys: KeyValues,
    places: Vec<usize>,
}

impl Part {
    fn add(
        parts: &mut Vec<Part>,
        node: &Arc<Node>,
        asking: bool,
        place: usize,
        (key, value): (&[u8], &[u8]),
    ) {
        let same = |part: &Part| Arc::ptr_eq(&part.node, node) && part.asking == asking;
        let at = parts.iter().position(same).unwrap_or_else(|| {
            let (keys, places) = (KeyValues::new(), Vec::new());
            parts.push(Part { node: node.clone(), asking, keys, places });
            parts.len() - 1
        });
        parts[at].keys.push(key, value);
        parts[at].places.push(place);
    }
}

/// A part on its way: whom it went to, the places of its keys, its answers.
type Sent<T> = (Arc<Node>, Vec<usize>, BoxFuture<'static, Answers<T>>);

fn send<T>(parts: Vec<Part>, op: &impl Op<T>, deadline: Instant) -> Vec<Sent<T>> {
    let send = |part: Part| {
        let session = if part.asking { &part.node.asking } else { &part.node.plain };
        let answers = op(session, part.keys, deadline);
        (part.node, part.places, answers)
    };
    parts.into_iter().map(send).collect()
}

/// Puts the answers of the parts together and follows redirections. Keys without a part are served by nobody.
async fn gather<T: Send + 'static>(
    nodes: Arc<Nodes>,
    batch: KeyValues,
    deadline: Instant,
    op: impl Op<T>,
    mut sent: Vec<Sent<T>>,
) -> Answers<T> {
    let missing = OpError::not_done(NAME, OpErrorKind::Refused, "no node serves the slot of this key");
    let mut answers: Answers<T> = vec_of_errors(batch.len(), &missing);
    let mut stale = sent.iter().map(|(_, places, _)| places.len()).sum::<usize>() < batch.len();
    for _ in 0..=MAX_REDIRECTS {
        let mut next = Vec::new();
        let parts = sent.into_iter().map(|(node, places, part)| part.map(move |part| (node, places, part)));
        for (node, places, part) in join_all(parts).await {
            for (place, answer) in places.into_iter().zip(part) {
                if let Err(error) = &answer {
                    stale |= says_stale(error);
                    if let Some(redirect) = redirection(&node, error) {
                        stale |= !redirect.asking;
                        if let (Some(pair), Some(node)) = (batch.pair(place), nodes.node(&redirect.to)) {
                            Part::add(&mut next, &node, redirect.asking, place, pair);
                        }
                    }
                }
                answers[place] = answer;
            }
        }
        if next.is_empty() || Instant::now() >= deadline {
            break;
        }
        sent = send(next, &op, deadline);
    }
    if stale {
        nodes.fleet.refresh_soon(&nodes.runtime);
    }
    answers
}

fn redirection(node: &Node, error: &OpError) -> Option<Redirect> {
    let Target::Node(from) = &node.target else { return None };
    (error.kind == OpErrorKind::Refused).then(|| Redirect::parse(&error.detail, from)).flatten()
}

/// An error that may mean that the map is old.
fn says_stale(error: &OpError) -> bool {
    match error.kind {
        OpErrorKind::Disconnected | OpErrorKind::BreakerOpen => true,
        OpErrorKind::Refused => error.detail.starts_with("CLUSTERDOWN"),
        _ => false,
    }
}

impl Session for RedisSession {
    fn claim(
        &self,
        batch: KeyValues,
        ttl: Duration,
        deadline: Instant,
    ) -> BoxFuture<'static, Answers<Claimed>> {
        self.run(batch, deadline, move |node, batch, deadline| node.claim(batch, ttl, deadline))
    }
    fn set(&self, batch: KeyValues, ttl: Duration, deadline: Instant) -> BoxFuture<'static, Answers<()>> {
        self.run(batch, deadline, move |node, batch, deadline| node.set(batch, ttl, deadline))
    }
    fn get(&self, keys: KeyValues, deadline: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
        self.run(keys, deadline, |node, keys, deadline| node.get(keys, deadline))
    }
    fn del(&self, keys: KeyValues, deadline: Instant) -> BoxFuture<'static, Answers<bool>> {
        self.run(keys, deadline, |node, keys, deadline| node.del(keys, deadline))
    }
    fn distrust(&self) {
        let routes = self.nodes.routes();
        routes.nodes.iter().chain(routes.guests.values()).for_each(|node| node.link.distrust());
    }
}

impl Session for NodeSession {
    fn claim(&self, batch: KeyValues, ttl: Duration, _: Instant) -> BoxFuture<'static, Answers<Claimed>> {
        self.link.submit(Ask::Claim(ttl), batch, self.asking, read_claim)
    }
    fn set(&self, batch: KeyValues, ttl: Duration, _: Instant) -> BoxFuture<'static, Answers<()>> {
        self.link.submit(Ask::Set(ttl), batch, self.asking, read_set)
    }
    fn get(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<Option<Bytes>>> {
        self.link.submit(Ask::Get, keys, self.asking, read_get)
    }
    fn del(&self, keys: KeyValues, _: Instant) -> BoxFuture<'static, Answers<bool>> {
        self.link.submit(Ask::Del, keys, self.asking, read_del)
    }
    fn distrust(&self) {
        self.link.distrust();
    }
    fn heard(&self) -> Option<Arc<Heard>> {
        Some(self.link.heard())
    }
    fn is_down(&self) -> bool {
        self.link.is_down()
    }
}

/// Any thread may use a session.
const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<RedisSession>();
    is_shared::<NodeSession>();
};
