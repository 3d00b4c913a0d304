//! The scripts of the log, as calls: what the store does in one step.
//!
//! Owns the names of the keys, which share a hash tag, and the shapes of arguments and answers. What
//! the scripts do stands in them. None reads more of the log than what it drops; the longest are
//! `record`, with [`MAX_RECORD`] messages, and a publish that begins a segment, which drops about a
//! part in 32 of the log.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, Script, ScriptInvocation};

use super::recorder::{Item, Recorded, Standing};
use super::server::Server;
use crate::events::position::Position;
use crate::events::settings::LogSettings;

/// The stream.
pub(super) const LOG: &str = "{intellirouter}:log";
/// What stands beside it, a hash.
pub(super) const BOOKS: &str = "{intellirouter}:books";
const SEGMENTS: &str = "{intellirouter}:segments";
const LEASE: &str = "{intellirouter}:lease";
/// Where the scripts say what they do. Not a channel of the grammar.
pub(super) const MARKS: &str = "{intellirouter}:mark";

/// The most messages that one call records.
pub(super) const MAX_RECORD: usize = 128;

macro_rules! script {
    ($name:ident, $file:literal) => {
        static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(
                include_str!("scripts/prelude.lua"),
                include_str!(concat!("scripts/", $file, ".lua"))
            ))
        });
    };
}

script!(PUBLISH, "publish");
script!(RECORD, "record");
script!(TICK, "tick");
script!(ADOPT, "adopt");

/// Begins a call: what every script is told. `known` is the newest position that this process knows.
fn call<'s>(script: &'s Script, run: &str, known: Position) -> ScriptInvocation<'s> {
    let mut call = script.prepare_invoke();
    call.key(LOG).key(BOOKS).key(SEGMENTS);
    call.arg(run).arg(known.epoch).arg(known.offset);
    call
}

/// A publish; see `publish.lua`.
pub(super) struct Publish<'a> {
    pub(super) channel: &'a str,
    pub(super) payload: &'a [u8],
    /// This command's own, the same when it is sent again.
    pub(super) token: u128,
    /// The caller's key.
    pub(super) key: Option<&'a str>,
    /// How long the two are remembered.
    pub(super) token_life: Duration,
    pub(super) key_life: Duration,
}

impl Publish<'_> {
    /// The command with everything that it needs.
    pub(super) fn prepare(&self, run: &str, known: Position) -> ScriptInvocation<'static> {
        let mut call = call(&PUBLISH, run, known);
        call.key(format!("{{intellirouter}}:sent:{:032x}", self.token));
        if let Some(key) = self.key {
            // Per channel, and outside of what channels are called.
            call.key(format!("{{intellirouter}}:once:{}:{key}", self.channel));
        }
        call.arg(MARKS).arg(self.channel).arg(self.payload);
        call.arg(millis(self.token_life)).arg(millis(self.key_life));
        call
    }

    /// The position, and whether it is that of an earlier event with the same key.
    pub(super) fn answer((id, duplicate): (String, bool)) -> RedisResult<(Position, bool)> {
        Ok((position(&id)?, duplicate))
    }
}

/// Appends what others published; returns how much of it was new.
pub(super) async fn record(
    server: &mut Server,
    known: Position,
    epoch: u64,
    items: &[Item],
) -> RedisResult<u64> {
    let mut call = call(&RECORD, &server.run, known);
    call.arg(epoch);
    for item in items {
        let (channel, payload, kind) = match &item.what {
            Recorded::Message { channel, payload } => (channel.as_str(), &payload[..], "p"),
            Recorded::Gap { channel, reason } => {
                let channel = channel.as_ref().map_or("", |channel| channel.as_str());
                (channel, &[][..], reason.as_str())
            }
        };
        call.arg(item.at.mark).arg(item.at.count);
        call.arg(channel).arg(payload).arg(kind).arg(item.weight);
    }
    call.invoke_async(&mut server.connection).await
}

/// What a tick tells the store.
pub(super) struct Tick<'a> {
    pub(super) name: &'a str,
    pub(super) lease: Duration,
    pub(super) claim: Claim,
    /// How far the records of a holder stand.
    pub(super) done: Option<Done>,
    /// What the store is to retain, from who decides that.
    pub(super) keep: Option<&'a LogSettings>,
}

/// What the caller of a tick is to the lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Takes nothing; it wants a mark.
    Looks,
    /// Has it on this connection, and goes on.
    Holds,
    /// Can append all that is not recorded.
    Vouches,
    /// Can't: takes it only if nobody else does.
    Lacks,
    /// Gives it back.
    Leaves,
}

impl Claim {
    fn as_str(self) -> &'static str {
        match self {
            Self::Looks => "looks",
            Self::Holds => "holds",
            Self::Vouches => "vouches",
            Self::Lacks => "lacks",
            Self::Leaves => "leaves",
        }
    }
}

/// How far the records of a holder stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) epoch: u64,
    /// Every message before this mark is recorded.
    pub(super) mark: u64,
    /// How many messages of others that makes, as the server counts, where that is known.
    pub(super) heard: Option<i64>,
}

/// What a tick brings: how the books stood before it.
pub(super) async fn tick(
    server: &mut Server,
    known: Position,
    tick: &Tick<'_>,
) -> RedisResult<Standing> {
    let mut call = call(&TICK, &server.run, known);
    call.key(LEASE).arg(MARKS).arg(tick.name);
    call.arg(millis(tick.lease)).arg(tick.claim.as_str());
    match tick.done {
        Some(done) => {
            let heard = done.heard.map_or(String::new(), |heard| heard.to_string());
            call.arg(done.epoch).arg(done.mark).arg(heard)
        }
        None => call.arg("").arg("").arg(""),
    };
    if let Some(keep) = tick.keep {
        call.arg(keep.retain_bytes).arg(keep.retain_events);
        call.arg(millis(keep.retain_age));
    }
    let connection = &mut server.connection;
    let answer: (u64, u64, bool, u64, u64, u64, String) = call.invoke_async(connection).await?;
    let (epoch, offset, holds, commit, mark, count, heard) = answer;
    Ok(Standing {
        head: Position { epoch, offset },
        holds,
        commit,
        recorded: super::recorder::Coordinate { mark, count },
        heard: heard.parse().ok(),
    })
}

/// Where the log ends, and the time of the server in ms; takes a new epoch where that must be.
pub(super) async fn adopt(server: &mut Server, known: Position) -> RedisResult<(Position, u64)> {
    let call = call(&ADOPT, &server.run, known);
    let (epoch, offset, now) = call.invoke_async(&mut server.connection).await?;
    Ok((Position { epoch, offset }, now))
}

/// The end of the log as the books of this server have it; `None` where they are of another life.
pub(super) async fn end(
    connection: &mut MultiplexedConnection,
    run: &str,
) -> RedisResult<Option<Position>> {
    let mut ask = redis::cmd("HMGET");
    ask.arg(BOOKS).arg("run").arg("epoch").arg("offset");
    Ok(end_of(ask.query_async(connection).await?, run))
}

/// What the three fields of the books say.
pub(super) type End = (Option<String>, Option<u64>, Option<u64>);

pub(super) fn end_of((of, epoch, offset): End, run: &str) -> Option<Position> {
    (of.as_deref() == Some(run)).then_some(Position {
        epoch: epoch?,
        offset: offset?,
    })
}

/// Whether a script refused because the store lives another life than the caller's.
pub(super) fn is_stale(error: &RedisError) -> bool {
    error.code() == Some("STALE")
}

fn position(id: &str) -> RedisResult<Position> {
    id.parse().map_err(|_| {
        let what = "the answer of a script has another shape";
        RedisError::from((ErrorKind::UnexpectedReturnType, what))
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
