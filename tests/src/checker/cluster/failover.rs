//! What happens to a Redis that Sentinels watch, and how it is mended: in the end there are a primary and a replica
//! that has everything, and the Sentinels know both.

use crate::redis::Redis;
use crate::sentinel::Sentinels;

use super::Cluster;

impl Cluster {
    fn watch(&self) -> (&Redis, &Sentinels, &Redis) {
        let (sentinels, standby) = self.watch.as_ref().expect("Sentinels watch");
        let primary = self.redis.as_ref().expect("there is a primary");
        (primary, sentinels, standby)
    }

    /// From here on the replica is behind.
    pub fn leave_standby_behind(&self) {
        let (primary, _, standby) = self.watch();
        primary.leave_behind(standby);
    }

    /// The replica goes on. It finds no primary any more from which to get what it lacks.
    pub fn thaw_standby(&self) {
        self.watch().2.thaw();
    }

    /// Has a primary replaced with which nothing is wrong.
    pub fn fail_over(&self) {
        self.watch().1.fail_over();
    }

    /// Waits until the replica is the primary, and takes it for that.
    pub fn await_promotion(&mut self) {
        let (primary, sentinels, _) = self.watch();
        sentinels.promoted(primary.port);
        self.follow_sentinels();
    }

    /// Whether the Sentinels have made the replica the primary since; it is taken for that then. Sentinels whose
    /// machine stood still may do so without a fault of ours.
    pub fn follow_sentinels(&mut self) -> bool {
        let (Some((sentinels, standby)), Some(redis)) = (&mut self.watch, &mut self.redis) else {
            return false;
        };
        let replaced = sentinels.primary() == Some(standby.port);
        if replaced {
            std::mem::swap(redis, standby);
            if let Some(relay) = &self.publishing {
                relay.lead_to(redis.port);
                relay.cut();
            }
        }
        replaced
    }

    /// Starts the primary that was killed again, empty.
    pub fn restart_standby(&mut self) {
        let (_, standby) = self.watch.as_mut().expect("Sentinels watch");
        standby.restart();
    }

    /// Makes what was the primary the replica, and waits until the Sentinels know it as such.
    pub fn mend_standby(&self) {
        let (primary, sentinels, standby) = self.watch();
        standby.follow(primary.port);
        sentinels.are_ready();
    }

    /// The same, where the Sentinels are left to say so to what was the primary.
    pub fn await_standby(&self) {
        let (_, sentinels, standby) = self.watch();
        sentinels.demoted(standby);
        sentinels.are_ready();
    }
}
