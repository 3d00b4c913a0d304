//! Whether the connections to Redis stand, for status, refusals and waits.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::timeout;

use crate::events::log::StoreStatus;

/// How long the other links wait for the recorder.
const RECORDER_FIRST: Duration = Duration::from_secs(1);

/// One of the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Publisher,
    Tail,
    Recorder,
}

impl Link {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Tail => "tail",
            Self::Recorder => "recorder",
        }
    }
}

pub(super) struct Health {
    address: String,
    state: watch::Sender<State>,
}

struct State {
    /// Of the publisher, the tail, the recorder.
    links: [Standing; 3],
    /// Whether the recorder holds the lease.
    recording: bool,
    since: SystemTime,
    reconnects: u64,
    /// How often a link came to stand.
    ups: u64,
}

enum Standing {
    /// Nobody has asked for it.
    Unused,
    /// The first try has not ended.
    Untried,
    /// With the server of this run id.
    Up(Arc<str>),
    /// The words say why.
    Down(String),
}

impl Health {
    /// Of a publisher that is about to connect.
    pub(super) fn new(address: String) -> Self {
        let state = State {
            links: [Standing::Untried, Standing::Unused, Standing::Unused],
            recording: false,
            since: SystemTime::now(),
            reconnects: 0,
            ups: 0,
        };
        Self {
            address,
            state: watch::Sender::new(state),
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The tail and the recorder are about to connect.
    pub(super) fn set_following(&self) {
        self.state.send_modify(|state| {
            state.set(Link::Tail, Standing::Untried);
            state.set(Link::Recorder, Standing::Untried);
        });
    }

    /// The link stands, with the server of this run id. `again`: it was lost before.
    pub(super) fn set_up(&self, link: Link, run: Arc<str>, again: bool) {
        self.state.send_modify(|state| {
            state.set(link, Standing::Up(run));
            state.ups += 1;
            state.reconnects += u64::from(again && link == Link::Tail);
        });
    }

    pub(super) fn set_down(&self, link: Link, why: &str) {
        let why = format!("{} of {}: {why}", link.name(), self.address);
        self.state
            .send_modify(|state| state.set(link, Standing::Down(why)));
    }

    /// How often a link came to stand so far.
    pub(super) fn ups(&self) -> u64 {
        self.state.borrow().ups
    }

    /// Waits until a link stands that did not after so many times.
    pub(super) async fn another_up(&self, ups: u64) {
        self.wait(|state| state.ups != ups).await;
    }

    /// Whether this is the link that looks for a store that is away, for all: one that waits for no
    /// other link.
    pub(super) fn leads(&self, link: Link) -> bool {
        let records = !matches!(self.state.borrow().get(Link::Recorder), Standing::Unused);
        link == if records {
            Link::Recorder
        } else {
            Link::Publisher
        }
    }

    /// True if that is new.
    pub(super) fn set_recording(&self, recording: bool) -> bool {
        self.state.send_if_modified(|state| {
            std::mem::replace(&mut state.recording, recording) != recording
        })
    }

    /// Why this link can't be used; `None` if it can.
    pub(super) fn down(&self, link: Link) -> Option<String> {
        self.state.borrow().get(link).trouble()
    }

    pub(super) fn status(&self) -> StoreStatus {
        let state = self.state.borrow();
        let trouble = state.links.iter().find_map(Standing::trouble);
        let duty = match (state.get(Link::Recorder), state.recording) {
            (Standing::Unused, _) => "",
            (_, true) => ", recording",
            (_, false) => ", standby for recording",
        };
        StoreStatus {
            connected: trouble.is_none(),
            since: state.since,
            detail: trouble.unwrap_or_else(|| format!("connected to {}{duty}", self.address)),
            recorded: 0,
            ignored: 0,
            oversized: 0,
            not_utf8: 0,
            not_json: 0,
            reconnects: state.reconnects,
        }
    }

    /// Waits until every link that is used was tried once.
    pub(super) async fn first_try(&self) {
        self.wait(|state| state.links.iter().all(Standing::tried))
            .await;
    }

    pub(super) async fn wait_for(&self, connected: bool) {
        self.wait(|state| state.connected() == connected).await;
    }

    /// Waits until this link stands, at most so long.
    pub(super) async fn wait_up(&self, link: Link, limit: Duration) {
        let up = self.wait(|state| matches!(state.get(link), Standing::Up(_)));
        let _ = timeout(limit, up).await;
    }

    /// Waits until the recorder, if there is one, stands with the server of this run id; at most
    /// [`RECORDER_FIRST`].
    ///
    /// Whoever finds a server that has lost its data begins a new epoch there. The recorder does so
    /// in the very step from which on it misses nothing. After any other, what came in between may
    /// be missing, and that has to be said by one more gap.
    pub(super) async fn recorder_first(&self, run: &str) {
        let stands = self.wait(|state| match state.get(Link::Recorder) {
            Standing::Up(with) => **with == *run,
            Standing::Unused => true,
            Standing::Untried | Standing::Down(_) => false,
        });
        let _ = timeout(RECORDER_FIRST, stands).await;
    }

    async fn wait(&self, reached: impl FnMut(&State) -> bool) {
        // Fails only when the sender is gone, and `self` holds it.
        let _ = self.state.subscribe().wait_for(reached).await;
    }
}

impl State {
    fn connected(&self) -> bool {
        self.links.iter().all(|link| link.trouble().is_none())
    }

    fn get(&self, link: Link) -> &Standing {
        &self.links[link as usize]
    }

    fn set(&mut self, link: Link, standing: Standing) {
        let before = self.connected();
        self.links[link as usize] = standing;
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
            Self::Up(_) | Self::Unused => None,
            Self::Untried => Some("not connected yet".to_owned()),
            Self::Down(why) => Some(why.clone()),
        }
    }
}
