//! A wake-up that leaves a mark, so that whoever is woken knows whether it was this.
//!
//! An event stream waits for events and for a handful of rare things. All but events ring this; a
//! stream that is woken for an event, as it is all the time, need not look at the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// See the module's comment.
pub(super) struct Bell {
    rung: AtomicBool,
    task: Waker,
}

impl Bell {
    /// One that wakes `task`. Not rung: whoever makes one looks at everything.
    pub(super) fn new(task: &Waker) -> Arc<Self> {
        Arc::new(Self {
            rung: AtomicBool::new(false),
            task: task.clone(),
        })
    }

    pub(super) fn wakes(&self, task: &Waker) -> bool {
        self.task.will_wake(task)
    }

    /// Whether it has rung since this was last asked. To be asked before the look at what rings it:
    /// what comes during that is then seen by the look or by the next question.
    pub(super) fn has_rung(&self) -> bool {
        // The look afterwards must see what was there when it rang.
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::Acquire)
    }

    /// Rings without waking.
    pub(super) fn mark(&self) {
        self.rung.store(true, Ordering::Release);
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.mark();
        self.task.wake_by_ref();
    }
}
