//! The nemesis: which faults a run has, one after the other, and what each of them can destroy.
//!
//! The plan comes from the seed alone. Between two faults all parts stand again, and [`SETTLE`] passes: a
//! recorder that has just come knows what was recorded before it only by the second tick of the one that
//! records. So at each moment of a run without loss one gateway at least is subscribed and has been.

use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rustix::process::Signal;

use super::cluster::{Cluster, Store};
use super::history::{Clock, Fault, Loss};

/// Two ticks of a recorder, and a little.
const SETTLE: Duration = Duration::from_millis(2500);

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Cuts the connections of clients to a gateway.
    CutClients,
    /// Kills a gateway.
    KillGateway,
    /// Stops a gateway, by SIGSTOP.
    StopGateway,
    /// Cuts a gateway's connections to Redis.
    CutStore,
    /// Keeps a gateway away from Redis for a time.
    PartStore,
    /// Cuts the publishers' connections to Redis.
    CutPublishers,
    /// Stops Redis for less than makes anybody give up a connection.
    StopRedis,
    /// Stops Redis for so long that all gateways connect anew. Before they are there, plain publishes may pass.
    StopRedisLong,
    /// Kills both gateways.
    KillGateways,
    /// Kills Redis.
    KillRedis,
    /// Takes all data from Redis.
    FlushRedis,
    /// Kills Redis and puts a replica in its place that is behind.
    PromoteReplica,
    /// Kills Redis, which Sentinels replace.
    KillPrimary,
    /// The same when the replica is behind.
    KillPrimaryAhead,
    /// Stops Redis for so long that Sentinels replace it. It then goes on, and holds itself for the primary.
    HangPrimary,
    /// Has Sentinels replace Redis, with which nothing is wrong. It takes what is published until they tell it.
    FailOver,
}

use Action::*;

/// What can destroy nothing.
const HARMLESS: [Action; 7] = [
    CutClients,
    KillGateway,
    StopGateway,
    CutStore,
    PartStore,
    CutPublishers,
    StopRedis,
];
/// What can.
const HARMFUL: [Action; 5] = [
    StopRedisLong,
    KillGateways,
    KillRedis,
    FlushRedis,
    PromoteReplica,
];

/// What can destroy nothing where Sentinels watch; no relay then leads from gateways to Redis.
const WATCHED: [Action; 5] = [
    CutClients,
    KillGateway,
    StopGateway,
    CutPublishers,
    StopRedis,
];
/// What can.
const WATCHED_HARMFUL: [Action; 6] = [
    KillPrimary,
    KillPrimaryAhead,
    HangPrimary,
    FailOver,
    KillGateways,
    FlushRedis,
];

/// One fault to come. `pause` and `hold` are times that pass, not waits for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How long all goes well before.
    pub pause: Duration,
    /// What then happens.
    pub action: Action,
    /// To which gateway, where it is one.
    pub gateway: usize,
    /// For how long.
    pub hold: Duration,
}

/// The faults that a run may have.
pub fn actions(store: Store, harmful: bool) -> Vec<Action> {
    match (store, harmful) {
        (Store::Memory, false) => vec![CutClients, StopGateway],
        (Store::Memory, true) => vec![CutClients, StopGateway, KillGateway],
        (Store::Sentinel, false) => WATCHED.to_vec(),
        (Store::Sentinel, true) => [&WATCHED_HARMFUL[..], &WATCHED_HARMFUL, &WATCHED].concat(),
        (_, false) => HARMLESS.to_vec(),
        // Half of them, so that those who recover are hit again.
        (_, true) => [&HARMFUL[..], &HARMFUL, &HARMLESS].concat(),
    }
}

/// The next fault.
pub fn step(actions: &[Action], gateways: usize, chance: &mut StdRng) -> Step {
    let action = *actions.choose(chance).expect("there is an action");
    let (least, most) = match action {
        CutClients | CutStore | CutPublishers | FlushRedis | FailOver => (0, 1),
        StopRedis => (100, 1500),
        StopRedisLong => (4000, 9000),
        StopGateway => (200, 6000),
        KillGateway | PartStore | KillGateways => (0, 5000),
        KillRedis | PromoteReplica => (50, 2500),
        KillPrimary | KillPrimaryAhead | HangPrimary => (50, 3000),
    };
    Step {
        pause: Duration::from_millis(chance.random_range(200..1500)),
        action,
        gateway: chance.random_range(0..gateways),
        hold: Duration::from_millis(chance.random_range(least..most)),
    }
}

impl Step {
    /// Makes the fault and mends it. `wait` waits for so long.
    pub fn perform(&self, cluster: &mut Cluster, clock: Clock, wait: impl Fn(Duration)) -> Fault {
        let Self {
            pause,
            action,
            gateway,
            hold,
        } = self;
        let gateway = *gateway;
        let before = clock.now();
        wait(*pause);
        let from = clock.now();
        match action {
            CutClients => cluster.cut_clients(gateway),
            KillGateway => {
                cluster.kill_gateway(gateway);
                wait(*hold);
                cluster.start_gateway(gateway);
            }
            StopGateway => {
                cluster.signal_gateway(gateway, Signal::STOP);
                wait(*hold);
                cluster.signal_gateway(gateway, Signal::CONT);
            }
            CutStore => cluster.cut_store(gateway, false),
            PartStore => {
                cluster.cut_store(gateway, true);
                wait(*hold);
                cluster.join_store(gateway);
            }
            CutPublishers => cluster.cut_publishers(),
            StopRedis | StopRedisLong => {
                cluster.freeze_redis();
                wait(*hold);
                cluster.thaw_redis();
            }
            KillGateways => {
                (0..cluster.gateways()).for_each(|each| cluster.kill_gateway(each));
                wait(*hold);
                (0..cluster.gateways()).for_each(|each| cluster.start_gateway(each));
            }
            KillRedis => {
                cluster.kill_redis();
                wait(*hold);
                cluster.start_redis();
            }
            FlushRedis => cluster.flush_redis(),
            PromoteReplica => {
                cluster.start_replica();
                cluster.cut_replica();
                wait(*hold);
                cluster.promote_replica();
            }
            KillPrimary | KillPrimaryAhead => {
                let ahead = *action == KillPrimaryAhead;
                if ahead {
                    cluster.leave_standby_behind();
                    wait(*hold);
                }
                cluster.kill_redis();
                if ahead {
                    cluster.thaw_standby();
                }
                cluster.await_promotion();
                cluster.restart_standby();
                cluster.mend_standby();
            }
            HangPrimary => {
                cluster.freeze_redis();
                cluster.await_promotion();
                wait(*hold);
                cluster.thaw_standby();
                cluster.mend_standby();
            }
            FailOver => {
                cluster.fail_over();
                cluster.await_promotion();
                cluster.await_standby();
            }
        }
        // A machine that stood still may have made Sentinels believe what was not so.
        let replaced = cluster.follow_sentinels();
        if replaced {
            cluster.await_standby();
        }
        cluster.stands();
        if *action != CutClients && *action != CutPublishers {
            wait(SETTLE);
        }
        let what = format!("{action:?} {gateway} for {hold:?}");
        let until = clock.now();
        if replaced {
            let what = format!("{what}; and Sentinels have replaced Redis");
            return Fault {
                what,
                loss: Loss::Store,
                from: before,
                until,
            };
        }
        Fault {
            what,
            loss: self.loss(cluster),
            from,
            until,
        }
    }

    fn loss(&self, cluster: &Cluster) -> Loss {
        match self.action {
            KillGateway if cluster.store_door().is_none() => Loss::Memory,
            StopRedisLong | KillGateways => Loss::Plain,
            KillRedis | FlushRedis | PromoteReplica => Loss::Store,
            KillPrimary | KillPrimaryAhead | HangPrimary | FailOver => Loss::Store,
            _ => Loss::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    fn plan(store: Store, seed: u64) -> Vec<Step> {
        let mut chance = StdRng::seed_from_u64(seed);
        let actions = actions(store, true);
        (0..100).map(|_| step(&actions, 2, &mut chance)).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_faults() {
        assert_eq!(plan(Store::Redis, 7), plan(Store::Redis, 7));
        assert_ne!(plan(Store::Redis, 7), plan(Store::Redis, 8));
    }

    #[test]
    fn a_run_without_loss_has_no_fault_that_can_destroy_anything() {
        for store in [
            Store::Memory,
            Store::Redis,
            Store::RedisOnDisk,
            Store::Sentinel,
        ] {
            let harmless = actions(store, false);
            let harmful = [&HARMFUL[..], &WATCHED_HARMFUL].concat();
            assert!(harmless.iter().all(|action| !harmful.contains(action)));
            assert!(store != Store::Memory || !harmless.contains(&KillGateway));
        }
    }

    #[test]
    fn every_fault_has_its_turn() {
        let plain = [&HARMLESS[..], &HARMFUL].concat();
        let watched = [&WATCHED[..], &WATCHED_HARMFUL].concat();
        for (store, all) in [(Store::Redis, plain), (Store::Sentinel, watched)] {
            let plan = plan(store, 7);
            for action in all {
                assert!(plan.iter().any(|step| step.action == action), "{action:?}");
            }
        }
    }
}
