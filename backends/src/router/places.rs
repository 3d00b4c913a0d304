//! How much the calls in progress may take: in number, and in the bytes that they hold.
//!
//! Owns the counts, for all calls and for each caller. What goes beyond is refused at once, nothing
//! waits here. One caller may have a quarter of everything, so that others are served; those with
//! the role `service` speak for many, and may have all of it, and so may all callers where nobody
//! checks who they are. It fails with [`RouteError::TooManyCalls`] and [`RouteError::TooManyBytes`].
//!
//! The bytes are an estimate from above of the request as it is kept and, once more, as it is sent.
//! Limits: those of the settings; one entry for each caller that has calls in progress.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use intellirouter::security::Claims;
use intellirouter_proto::intellirouter::model_registry::v1::{
    ChatCompletionRequest, RoutingRequest,
};
use prost::Message;

use super::error::RouteError;

/// The role that may have more than a caller's share.
const SERVICE: &str = "service";
/// A caller's share, as a part of the whole.
const SHARE: usize = 4;
/// What an entry of a list or map takes beside its texts: its struct, and the room around it.
const ENTRY: usize = 256;
/// How much longer JSON may get when it is read and written again: `1e9` becomes `1000000000.0`.
const JSON_GROWTH: usize = 6;

/// The counts.
#[derive(Debug)]
pub(super) struct Places {
    most: Taken,
    taken: Mutex<(Taken, HashMap<String, Taken>)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    calls: usize,
    bytes: usize,
}

impl Places {
    pub(super) fn new(max_calls: usize, max_bytes: usize) -> Self {
        Self {
            most: Taken {
                calls: max_calls,
                bytes: max_bytes,
            },
            taken: Mutex::default(),
        }
    }

    /// A place among the calls in progress, until it is dropped.
    pub(super) fn take(self: &Arc<Self>, caller: Option<&Claims>) -> Result<Place, RouteError> {
        let shares = caller.filter(|claims| !claims.roles.iter().any(|role| role == SERVICE));
        let mut place = Place {
            places: Arc::clone(self),
            caller: shares.map(|claims| claims.sub.clone()),
            held: Taken::default(),
        };
        place.add(Taken { calls: 1, bytes: 0 })?;
        Ok(place)
    }

    fn lock(&self) -> MutexGuard<'_, (Taken, HashMap<String, Taken>)> {
        // Numbers only, changed in steps that can't panic.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place; see [`Places::take`].
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    /// Whose share it counts into, if it is anybody's.
    caller: Option<String>,
    held: Taken,
}

impl Place {
    /// Counts what the request holds.
    pub(super) fn hold(&mut self, bytes: usize) -> Result<(), RouteError> {
        self.add(Taken { calls: 0, bytes })
    }

    /// The request is gone, the call goes on.
    pub(super) fn let_go(&mut self) {
        let calls = 0;
        let bytes = self.held.bytes;
        self.give_back(Taken { calls, bytes });
    }

    fn add(&mut self, more: Taken) -> Result<(), RouteError> {
        let most = self.places.most;
        let mut taken = self.places.lock();
        let all = taken.0.plus(more);
        all.within(most, false)?;
        if let Some(caller) = &self.caller {
            let own = taken.1.get(caller).copied().unwrap_or_default().plus(more);
            own.within(most.share(), true)?;
            taken.1.insert(caller.clone(), own);
        }
        taken.0 = all;
        self.held = self.held.plus(more);
        Ok(())
    }

    fn give_back(&mut self, less: Taken) {
        let mut taken = self.places.lock();
        taken.0 = taken.0.minus(less);
        if let Some(caller) = &self.caller
            && let Some(own) = taken.1.get_mut(caller)
        {
            *own = own.minus(less);
            if own.calls == 0 {
                taken.1.remove(caller);
            }
        }
        self.held = self.held.minus(less);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.give_back(self.held);
    }
}

impl Taken {
    fn plus(self, more: Self) -> Self {
        Self {
            calls: self.calls.saturating_add(more.calls),
            bytes: self.bytes.saturating_add(more.bytes),
        }
    }

    fn minus(self, less: Self) -> Self {
        Self {
            calls: self.calls.saturating_sub(less.calls),
            bytes: self.bytes.saturating_sub(less.bytes),
        }
    }

    fn share(self) -> Self {
        Self {
            // One call at least, or nobody could have any.
            calls: (self.calls / SHARE).max(1),
            bytes: self.bytes / SHARE,
        }
    }

    /// Fails if it is more than `most`, which is a share if `own` is set.
    fn within(self, most: Self, own: bool) -> Result<(), RouteError> {
        if self.calls > most.calls {
            let max = most.calls;
            return Err(RouteError::TooManyCalls { max, own });
        }
        if self.bytes > most.bytes {
            let max = most.bytes;
            return Err(RouteError::TooManyBytes { max, own });
        }
        Ok(())
    }
}

/// How many bytes a well-formed request holds while it is in progress, at most: as it came, and as
/// the JSON that a model gets.
pub(super) fn weight(chat: &ChatCompletionRequest, routing: &RoutingRequest) -> usize {
    chat.encoded_len() + routing.encoded_len() + ENTRY * entries(chat, routing) + sent(chat)
}

fn entries(chat: &ChatCompletionRequest, routing: &RoutingRequest) -> usize {
    let metadata = |message: &intellirouter_proto::intellirouter::common::v1::Message| {
        let values = message
            .metadata
            .as_ref()
            .map(|metadata| metadata.values.len());
        values.unwrap_or_default()
    };
    let messages: usize = chat.messages.iter().map(|m| 1 + metadata(m)).sum();
    // The bounded rest, and the plan itself.
    let others = 256;
    others
        + messages
        + chat.tools.len()
        + chat.logit_bias.len()
        + chat.additional_parameters.len()
        + routing.excluded_model_ids.len()
}

/// The length of the JSON, at most.
fn sent(chat: &ChatCompletionRequest) -> usize {
    let messages = chat.messages.iter().map(|message| {
        let metadata = message
            .metadata
            .iter()
            .flat_map(|metadata| &metadata.values);
        let metadata: usize = metadata.map(|(_, value)| JSON_GROWTH * value.len()).sum();
        escaped(&message.role) + escaped(&message.content) + metadata
    });
    let functions = chat.tools.iter().filter_map(|tool| tool.function.as_ref());
    let functions = functions.map(|function| {
        let texts = escaped(&function.name) + escaped(&function.description);
        texts + JSON_GROWTH * function.parameters.len()
    });
    let parameters = chat.additional_parameters.iter();
    let parameters = parameters.map(|(name, value)| escaped(name) + JSON_GROWTH * value.len());
    messages.chain(functions).chain(parameters).sum()
}

/// The length of a text in JSON: a control character takes up to six bytes.
fn escaped(text: &str) -> usize {
    let length = |byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(length).sum()
}

#[cfg(test)]
mod tests;
