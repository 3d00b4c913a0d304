//! Wakes those who wait for a ring to grow.
//!
//! To wake a task from another thread costs a system call for each, and a log may have thousands
//! of subscribers. So those who wait on one runtime are a group: a task on that runtime is woken
//! once, and wakes its group from there. Before it does, it lets everything else run that is ready:
//! what is appended meanwhile comes with the same wake-up. It wakes [`SLICE`] at a time, so that
//! other work of the runtime comes in between.
//!
//! A round that wakes all of a group costs most of what its writes cost, however much each of them
//! carries. So where rounds take more than a third of the time, and the last one brought several entries,
//! the next one is held back for half of what that took, [`LONGEST_PAUSE`] at most, and brings what is
//! appended meanwhile in the same writes. Some hundred subscribers are never held back. Those who wait
//! outside a runtime are woken by the
//! append itself.
//!
//! A subscriber is woken once for all that was appended since it last found nothing. Bounds: 40
//! bytes per subscriber, kept until as many subscribe again; one task per runtime with subscribers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::runtime::{Handle, Id};
use tokio::sync::watch;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{Instant, sleep};

/// How many are woken before others run.
const SLICE: usize = 128;

/// See the module's comment.
pub(super) struct Wakeups {
    /// How many entries there ever were. A watch and not a queue: an append between a look and the wait is
    /// seen.
    appended: watch::Sender<u64>,
    groups: Mutex<HashMap<Id, Weak<Group>>>,
    /// Those outside a runtime.
    others: Mutex<Weak<Group>>,
}

/// Those who wait on one runtime.
#[derive(Default)]
struct Group {
    waiting: Mutex<Slab<Option<Waker>>>,
    relay: OnceLock<AbortHandle>,
}

/// A subscriber's place in its group.
pub(super) struct Waiter {
    group: Arc<Group>,
    key: usize,
}

impl Wakeups {
    pub(super) fn new() -> Self {
        Self {
            appended: watch::Sender::new(0),
            groups: Mutex::default(),
            others: Mutex::default(),
        }
    }

    /// Something was appended; there were so many entries ever.
    pub(super) fn tell(&self, entries: u64) {
        self.appended.send_replace(entries);
        let others = lock(&self.others).upgrade();
        if let Some(others) = others {
            let mut next = Some(0);
            while let Some(from) = next {
                next = others.wake(from);
            }
        }
    }

    /// A place for a subscriber that will wait on the runtime that this is called on, if any.
    pub(super) fn join(&self) -> Waiter {
        let group = match Handle::try_current() {
            Ok(runtime) => self.group(&runtime),
            Err(_) => self.others(),
        };
        let key = group.waiting().insert(None);
        Waiter { group, key }
    }

    fn group(&self, runtime: &Handle) -> Arc<Group> {
        let mut groups = lock(&self.groups);
        let there = groups.get(&runtime.id()).and_then(Weak::upgrade);
        if let Some(group) = there.filter(|group| group.is_relayed()) {
            return group;
        }
        groups.retain(|_, group| group.strong_count() > 0);
        let group = Arc::<Group>::default();
        let relay = relay(self.appended.subscribe(), Arc::downgrade(&group));
        let _ = group.relay.set(runtime.spawn(relay).abort_handle());
        groups.insert(runtime.id(), Arc::downgrade(&group));
        group
    }

    fn others(&self) -> Arc<Group> {
        let mut others = lock(&self.others);
        others.upgrade().unwrap_or_else(|| {
            let group = Arc::<Group>::default();
            *others = Arc::downgrade(&group);
            group
        })
    }
}

// No panic leaves anything behind these locks half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The longest that a round is held back.
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// What can't be timed well is left out.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

async fn relay(mut appended: watch::Receiver<u64>, group: Weak<Group>) {
    let (mut took, mut ended) = (Duration::ZERO, Instant::now());
    let (mut before, mut brought) = (*appended.borrow(), 0);
    while appended.changed().await.is_ok() {
        let pause = (took / 2).min(LONGEST_PAUSE);
        if brought > 1 && pause >= SHORTEST_PAUSE && ended.elapsed() < 2 * took {
            sleep(pause).await;
        }
        let entries = *appended.borrow_and_update();
        brought = entries.saturating_sub(before);
        before = entries;
        let begun = Instant::now();
        let mut next = Some(0);
        while let Some(from) = next {
            yield_now().await;
            let Some(group) = group.upgrade() else { return };
            next = group.wake(from);
        }
        // The last of them have run then.
        yield_now().await;
        ended = Instant::now();
        took = ended - begun;
    }
}

impl Group {
    /// Wakes at most [`SLICE`] of those from place `from` on; tells where to go on.
    fn wake(&self, from: usize) -> Option<usize> {
        let mut woken = Vec::with_capacity(SLICE);
        let mut waiting = self.waiting();
        // Places are few more than subscribers, so walking over empty ones is cheap.
        let end = waiting.capacity();
        let mut place = from;
        while place < end && woken.len() < SLICE {
            woken.extend(waiting.get_mut(place).and_then(Option::take));
            place += 1;
        }
        drop(waiting);
        // Without the lock: whose wakers these are is not known here.
        woken.into_iter().for_each(Waker::wake);
        (place < end).then_some(place)
    }

    /// Whether the runtime still runs that wakes this group.
    fn is_relayed(&self) -> bool {
        self.relay.get().is_some_and(|relay| !relay.is_finished())
    }

    fn waiting(&self) -> MutexGuard<'_, Slab<Option<Waker>>> {
        lock(&self.waiting)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(relay) = self.relay.get() {
            relay.abort();
        }
    }
}

impl Waiter {
    /// From now on the next append wakes this one. To be called before the look that finds nothing.
    pub(super) fn arm(&self, waker: &Waker) {
        let mut waiting = self.group.waiting();
        if let Some(place) = waiting.get_mut(self.key) {
            match place {
                Some(armed) => armed.clone_from(waker),
                None => *place = Some(waker.clone()),
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        // The waker goes when the lock is free again: it may be the last of its task.
        let removed = self.group.waiting().try_remove(self.key);
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    use tokio::time::advance;

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    impl Counted {
        fn get(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    /// Until the relay has nothing more to do.
    async fn settle() {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn several_appends_are_one_wake_up_until_the_subscriber_looks_again() {
        let (wakeups, woken) = (Wakeups::new(), Arc::new(Counted::default()));
        let waiter = wakeups.join();
        waiter.arm(&woken.clone().into());
        for _ in 0..3 {
            wakeups.tell(1);
        }
        settle().await;
        wakeups.tell(1);
        settle().await;
        assert_eq!(woken.get(), 1);
        waiter.arm(&woken.clone().into());
        wakeups.tell(1);
        settle().await;
        assert_eq!(woken.get(), 2);
    }

    #[tokio::test]
    async fn every_subscriber_is_woken_also_beyond_one_slice() {
        let (wakeups, woken) = (Wakeups::new(), Arc::new(Counted::default()));
        let waiters: Vec<Waiter> = (0..3 * SLICE + 1).map(|_| wakeups.join()).collect();
        for waiter in &waiters {
            waiter.arm(&woken.clone().into());
        }
        wakeups.tell(1);
        settle().await;
        assert_eq!(woken.get(), waiters.len());
    }

    /// To wake it takes 10 ms.
    #[derive(Default)]
    struct Dear(Counted);

    impl Wake for Dear {
        fn wake(self: Arc<Self>) {
            let mut advance = std::pin::pin!(advance(Duration::from_millis(10)));
            let _ = advance
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()));
            self.0.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_after_a_dear_one_that_brought_several_is_held_back_for_a_moment() {
        let (wakeups, woken) = (Wakeups::new(), Arc::new(Dear::default()));
        let waiter = wakeups.join();
        let arm = || waiter.arm(&woken.clone().into());
        let rounds = async |entries| {
            wakeups.tell(entries);
            settle().await;
            woken.0.get()
        };
        arm();
        assert_eq!(rounds(1).await, 1);
        arm();
        assert_eq!(rounds(2).await, 2, "the one before brought one entry");
        arm();
        assert_eq!(rounds(4).await, 3);
        arm();
        assert_eq!(rounds(5).await, 3, "the one before brought two");
        sleep(LONGEST_PAUSE).await;
        settle().await;
        assert_eq!(woken.0.get(), 4);
        arm();
        assert_eq!(rounds(7).await, 5);
        arm();
        advance(Duration::from_millis(20)).await;
        assert_eq!(rounds(8).await, 6, "a while after the one before");
    }

    #[tokio::test]
    async fn one_that_is_gone_is_not_woken_and_keeps_nothing() {
        let (wakeups, woken) = (Wakeups::new(), Arc::new(Counted::default()));
        let (gone, other) = (wakeups.join(), wakeups.join());
        gone.arm(&woken.clone().into());
        drop(gone);
        assert_eq!(Arc::strong_count(&woken), 1);
        wakeups.tell(1);
        settle().await;
        assert_eq!(woken.get(), 0);
        let relay = other.group.relay.get().cloned().unwrap();
        drop(other);
        settle().await;
        assert!(relay.is_finished());
    }

    #[test]
    fn a_subscriber_outside_a_runtime_is_woken_by_the_append() {
        let (wakeups, woken) = (Wakeups::new(), Arc::new(Counted::default()));
        let waiter = wakeups.join();
        waiter.arm(&woken.clone().into());
        wakeups.tell(1);
        assert_eq!(woken.get(), 1);
    }

    #[test]
    fn subscribers_of_other_runtimes_are_woken_on_their_own() {
        let runtime = || {
            tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap()
        };
        let wakeups = Wakeups::new();
        for _ in 0..2 {
            let woken = Arc::new(Counted::default());
            runtime().block_on(async {
                let waiter = wakeups.join();
                waiter.arm(&woken.clone().into());
                std::thread::scope(|scope| drop(scope.spawn(|| wakeups.tell(1))));
                settle().await;
            });
            assert_eq!(woken.get(), 1);
        }
    }
}
