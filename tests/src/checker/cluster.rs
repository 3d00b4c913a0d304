//! The parts of a run: a Redis, two gateways, and a relay wherever the nemesis may cut.
//!
//! Over `memory:` there is one gateway and no Redis. Where Sentinels watch the Redis (`failover`), no relay leads to
//! it but that of plain publishers, which follows the Sentinels: the gateways and the library ask them. Must be used from one thread that lives as long as it: its
//! processes end with the thread that started them.

mod failover;

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::history::Retention;
use crate::redis::Redis;
use crate::relay::Relay;
use crate::sentinel::Sentinels;
use crate::{Config, DEADLINE, Gateway, Site, binary};

/// No server listens there.
const NOWHERE: u16 = 0;

/// Where events are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// In the one gateway.
    Memory,
    /// In a Redis that keeps nothing on disk.
    Redis,
    /// In a Redis that writes each command to disk before it answers.
    RedisOnDisk,
    /// In a Redis with a replica that three Sentinels may put in its place. Neither keeps anything on disk.
    Sentinel,
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retain {
    /// More than is ever published, for an hour.
    Plenty,
    /// As few bytes as may be set, some seconds' worth; and who is a little behind is closed.
    Small,
    /// Two seconds' worth.
    Brief,
}

impl Retain {
    /// What the gateways then promise.
    pub fn retention(self) -> Option<Retention> {
        let (bytes, seconds) = match self {
            Self::Plenty => return None,
            Self::Small => (1 << 20, 3600),
            Self::Brief => (64 << 20, 2),
        };
        let age = Duration::from_secs(seconds);
        Some(Retention { bytes, age })
    }

    /// Keys of `[events]`.
    fn keys(self) -> &'static str {
        match self {
            Self::Plenty => "",
            Self::Small => "retain_bytes = 1048576\npayload_bytes = 65536\nlag_bytes = 131072\n",
            Self::Brief => "retain_age = \"2s\"\n",
        }
    }
}

/// A gateway, which may be dead, and the ways to it and from it.
struct Member {
    gateway: Option<Gateway>,
    file: String,
    /// Before it.
    front: Relay,
    /// From it to Redis.
    store: Option<Relay>,
}

/// See the module's comment.
pub struct Cluster {
    /// Certificates and secrets, of all gateways.
    pub site: Site,
    redis: Option<Redis>,
    /// Follows the Redis, to be promoted.
    replica: Option<(Redis, Relay)>,
    /// Those that watch it, with the replica that they know.
    watch: Option<(Sentinels, Redis)>,
    /// From publishers to Redis.
    publishing: Option<Relay>,
    members: Vec<Member>,
}

impl Cluster {
    /// Starts everything, and waits until it stands.
    pub fn start(store: Store, retain: Retain) -> Self {
        let site = Site::new();
        let redis = match store {
            Store::Memory => None,
            Store::Redis | Store::Sentinel => Some(Redis::start()),
            Store::RedisOnDisk => Some(Redis::on_disk()),
        };
        let watched = redis.as_ref().filter(|_| store == Store::Sentinel);
        let watch = watched.map(|redis| {
            let standby = Redis::replica_of(redis);
            (Sentinels::watch(redis, 3), standby)
        });
        let relay = || redis.as_ref().map(|redis| Relay::to(redis.port));
        let names: &[&str] = if redis.is_some() { &["a", "b"] } else { &["a"] };
        let members = names.iter().map(|name| {
            let relay = relay().filter(|_| watch.is_none());
            let url = match (&watch, &relay) {
                (Some((sentinels, _)), _) => sentinels.url(),
                (None, Some(relay)) => format!("redis://127.0.0.1:{}", relay.port),
                (None, None) => "memory:".into(),
            };
            Member::new(
                &site,
                name,
                relay,
                &format!("store = \"{url}\"\n{}", retain.keys()),
            )
        });
        let cluster = Self {
            members: members.collect(),
            publishing: relay(),
            replica: None,
            redis,
            watch,
            site,
        };
        cluster.stands();
        cluster
    }

    /// The ports before the gateways.
    pub fn doors(&self) -> Vec<u16> {
        self.members
            .iter()
            .map(|member| member.front.port)
            .collect()
    }

    /// The port that leads publishers to Redis.
    pub fn store_door(&self) -> Option<u16> {
        self.publishing.as_ref().map(|relay| relay.port)
    }

    /// What the library is given to publish in Redis.
    pub fn store_url(&self) -> Option<String> {
        match &self.watch {
            Some((sentinels, _)) => Some(sentinels.url()),
            None => self
                .store_door()
                .map(|port| format!("redis://127.0.0.1:{port}")),
        }
    }

    /// How many gateways there are.
    pub fn gateways(&self) -> usize {
        self.members.len()
    }

    /// Waits until every gateway records and follows.
    pub fn stands(&self) {
        let end = Instant::now() + DEADLINE;
        while !self.all_stand() {
            assert!(
                Instant::now() < end,
                "the parts don't stand again\n{}",
                self.output()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn all_stand(&self) -> bool {
        let follow = self
            .members
            .iter()
            .flat_map(|member| &member.gateway)
            .all(|gateway| {
                gateway
                    .metrics()
                    .contains("intellirouter_event_store_connected 1")
            });
        // Each gateway has one connection with a subscription to everything.
        let listening = |redis: &Redis| {
            let clients = redis.cli(&["CLIENT", "LIST"]);
            clients
                .lines()
                .filter(|client| client.contains(" psub=1 "))
                .count()
        };
        follow
            && self
                .redis
                .as_ref()
                .is_none_or(|redis| listening(redis) == self.members.len())
    }

    /// What the gateways said last.
    pub fn output(&self) -> String {
        let gateways = self.members.iter().flat_map(|member| &member.gateway);
        gateways
            .map(|gateway| gateway.process.output())
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn redis(&mut self) -> &mut Redis {
        self.redis.as_mut().expect("such faults are for a Redis")
    }

    fn gateway(&mut self, index: usize) -> &mut Gateway {
        self.members[index].gateway.as_mut().expect("it runs")
    }

    /// Cuts the connections of clients to a gateway.
    pub fn cut_clients(&self, index: usize) {
        self.members[index].front.cut();
    }

    /// Kills a gateway.
    pub fn kill_gateway(&mut self, index: usize) {
        self.members[index].gateway = None;
        self.members[index].front.cut();
    }

    /// Starts it again.
    pub fn start_gateway(&mut self, index: usize) {
        let member = &mut self.members[index];
        let gateway = member.start(&self.site);
        member.front.lead_to(gateway.port);
        member.gateway = Some(gateway);
    }

    /// Stops a gateway without closing its connections, or lets it go on.
    pub fn signal_gateway(&mut self, index: usize, signal: Signal) {
        self.gateway(index).process.signal(signal);
    }

    /// Cuts a gateway from Redis, once, or until it is joined again.
    pub fn cut_store(&self, index: usize, away: bool) {
        let relay = self.members[index]
            .store
            .as_ref()
            .expect("there is a Redis");
        if away {
            relay.lead_to(NOWHERE);
        }
        relay.cut();
    }

    /// Ends the separation of a gateway from Redis.
    pub fn join_store(&self, index: usize) {
        let port = self.redis.as_ref().expect("there is a Redis").port;
        self.members[index]
            .store
            .as_ref()
            .expect("there is a Redis")
            .lead_to(port);
    }

    /// Cuts the connections of publishers to Redis.
    pub fn cut_publishers(&self) {
        self.publishing.as_ref().expect("there is a Redis").cut();
    }

    /// Stops Redis without closing its connections.
    pub fn freeze_redis(&mut self) {
        self.redis().freeze();
    }

    /// Lets it go on.
    pub fn thaw_redis(&mut self) {
        self.redis().thaw();
    }

    /// Kills Redis.
    pub fn kill_redis(&mut self) {
        self.redis().kill();
    }

    /// Starts it again, with what it has on disk.
    pub fn start_redis(&mut self) {
        self.redis().restart();
    }

    /// Takes all data from Redis.
    pub fn flush_redis(&mut self) {
        self.redis().cli(&["FLUSHALL"]);
    }

    /// Starts a replica of Redis, and waits until it has everything.
    pub fn start_replica(&mut self) {
        let link = Relay::to(self.redis().port);
        let replica = Redis::start();
        replica.follow(link.port);
        self.replica = Some((replica, link));
    }

    /// From here on the replica is behind.
    pub fn cut_replica(&self) {
        let (_, link) = self.replica.as_ref().expect("there is a replica");
        link.lead_to(NOWHERE);
        link.cut();
    }

    /// Kills Redis and puts the replica in its place, as Sentinel does.
    pub fn promote_replica(&mut self) {
        let (replica, _) = self.replica.take().expect("there is a replica");
        self.redis().kill();
        replica.cli(&["REPLICAOF", "NO", "ONE"]);
        let stores = self
            .members
            .iter()
            .filter_map(|member| member.store.as_ref());
        for relay in stores.chain(&self.publishing) {
            relay.lead_to(replica.port);
            relay.cut();
        }
        self.redis = Some(replica);
    }
}

impl Member {
    fn new(site: &Site, name: &str, store: Option<Relay>, keys: &str) -> Self {
        let config = Config::default()
            .events(&format!("{keys}heartbeat = \"1s\""))
            .with_text("[log]\nlevel = \"warn\"\naccess = false\n");
        let file = site.write(&format!("{name}.toml"), &config.render());
        let file = file
            .to_str()
            .expect("a temporary folder has a plain name")
            .to_owned();
        let mut member = Self {
            gateway: None,
            file,
            front: Relay::to(NOWHERE),
            store,
        };
        let gateway = member.start(site);
        member.front.lead_to(gateway.port);
        member.gateway = Some(gateway);
        member
    }

    fn start(&self, site: &Site) -> Gateway {
        let command = binary::command(&["gateway", "--config", &self.file]);
        Gateway::ready(site.certs.path("ca.crt"), &command)
    }
}
