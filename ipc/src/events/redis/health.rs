//! Whether the two connections to Redis stand, for status, refusals and waits.

use std::time::SystemTime;

use tokio::sync::watch;

use crate::events::log::StoreStatus;

/// One of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Tail,
    Publisher,
}

impl Link {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Tail => "tail",
            Self::Publisher => "publisher",
        }
    }
}

pub(super) struct Health {
    address: String,
    state: watch::Sender<State>,
}

struct State {
    tail: Standing,
    publisher: Standing,
    since: SystemTime,
    reconnects: u64,
}

enum Standing {
    /// The first try has not ended.
    Untried,
    Up,
    /// The words say why.
    Down(String),
}

impl Health {
    pub(super) fn new(address: String) -> Self {
        let state = State {
            tail: Standing::Untried,
            publisher: Standing::Untried,
            since: SystemTime::now(),
            reconnects: 0,
        };
        Self {
            address,
            state: watch::Sender::new(state),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The link stands. `again`: it was lost before.
    pub(super) fn set_up(&self, link: Link, again: bool) {
        self.state.send_modify(|state| {
            state.set(link, Standing::Up);
            state.reconnects += u64::from(again && link == Link::Tail);
        });
    }

    pub(super) fn set_down(&self, link: Link, why: &str) {
        let why = format!("{} of {}: {why}", link.name(), self.address);
        self.state
            .send_modify(|state| state.set(link, Standing::Down(why)));
    }

    /// Why this link can't be used; `None` if it can.
    pub(super) fn down(&self, link: Link) -> Option<String> {
        self.state.borrow().get(link).trouble()
    }

    pub(super) fn status(&self) -> StoreStatus {
        let state = self.state.borrow();
        let trouble = state.tail.trouble().or_else(|| state.publisher.trouble());
        StoreStatus {
            connected: trouble.is_none(),
            since: state.since,
            detail: trouble.unwrap_or_else(|| format!("connected to {}", self.address)),
            recorded: 0,
            ignored: 0,
            oversized: 0,
            reconnects: state.reconnects,
        }
    }

    /// Waits until both links were tried once.
    pub(super) async fn first_try(&self) {
        self.wait(|state| state.tail.tried() && state.publisher.tried())
            .await;
    }

    pub(super) async fn wait_for(&self, connected: bool) {
        self.wait(|state| state.connected() == connected).await;
    }

    async fn wait(&self, reached: impl FnMut(&State) -> bool) {
        // Fails only when the sender is gone, and `self` holds it.
        let _ = self.state.subscribe().wait_for(reached).await;
    }
}

impl State {
    fn connected(&self) -> bool {
        matches!((&self.tail, &self.publisher), (Standing::Up, Standing::Up))
    }

    fn get(&self, link: Link) -> &Standing {
        match link {
            Link::Tail => &self.tail,
            Link::Publisher => &self.publisher,
        }
    }

    fn set(&mut self, link: Link, standing: Standing) {
        let before = self.connected();
        match link {
            Link::Tail => self.tail = standing,
            Link::Publisher => self.publisher = standing,
        }
        if self.connected() != before {
            self.since = SystemTime::now();
        }
    }
}

impl Standing {
    fn tried(&self) -> bool {
        !matches!(self, Self::Untried)
    }

    fn trouble(&self) -> Option<String> {
        match self {
            Self::Up => None,
            Self::Untried => Some("not connected yet".to_owned()),
            Self::Down(why) => Some(why.clone()),
        }
    }
}
