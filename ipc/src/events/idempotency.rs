//! Idempotency keys: what one may look like, and the memory of those already used.
//!
//! A key is remembered for [`IDEMPOTENCY_WINDOW`] and per channel, so that two publishers can't
//! swallow each other's events by choosing the same key for different channels. At most
//! [`MAX_IDEMPOTENCY_KEYS`] are remembered here, which takes at most about 40 MiB; beyond that the
//! oldest are forgotten early.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::channel::ChannelName;
use super::log::PublishError;
use super::position::Position;
use super::settings::{IDEMPOTENCY_WINDOW, MAX_IDEMPOTENCY_KEYS};

const MAX_KEY_BYTES: usize = 128;

/// Accepts 1 to 128 visible ASCII characters.
pub(super) fn check_key(key: &str) -> Result<(), PublishError> {
    let visible = key.bytes().all(|b| b.is_ascii_graphic());
    if visible && (1..=MAX_KEY_BYTES).contains(&key.len()) {
        Ok(())
    } else {
        Err(PublishError::BadIdempotencyKey)
    }
}

/// The keys used lately, each with the position that it got.
#[derive(Default)]
pub(super) struct Keys {
    positions: HashMap<Used, Position>,
    by_age: VecDeque<(Instant, Used)>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Used {
    channel: ChannelName,
    key: Arc<str>,
}

impl Keys {
    /// The position that this key got, or what `publish` gives, remembered from now on.
    pub(super) fn once(
        &mut self,
        channel: &ChannelName,
        key: &str,
        publish: impl FnOnce() -> Result<Position, PublishError>,
    ) -> Result<(Position, bool), PublishError> {
        let now = Instant::now();
        self.forget(|at, _| now.duration_since(at) >= IDEMPOTENCY_WINDOW);
        let used = Used {
            channel: channel.clone(),
            key: key.into(),
        };
        if let Some(position) = self.positions.get(&used) {
            return Ok((*position, true));
        }
        let position = publish()?;
        self.forget(|_, remembered| remembered >= MAX_IDEMPOTENCY_KEYS);
        self.positions.insert(used.clone(), position);
        self.by_age.push_back((now, used));
        Ok((position, false))
    }

    /// Forgets the oldest key as long as `must_go` says so of its age and the number of keys.
    fn forget(&mut self, must_go: impl Fn(Instant, usize) -> bool) {
        while let Some((at, used)) = self.by_age.front() {
            if !must_go(*at, self.by_age.len()) {
                return;
            }
            self.positions.remove(used);
            self.by_age.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn publish(keys: &mut Keys, key: &str, offset: u64) -> (u64, bool) {
        let channel = ChannelName::new("a", "b", "c");
        let position = Position { epoch: 1, offset };
        let (got, duplicate) = keys.once(&channel, key, || Ok(position)).unwrap();
        (got.offset, duplicate)
    }

    #[test]
    fn a_key_is_one_to_128_visible_ascii_characters() {
        assert!(check_key("8e03978e-40d5-43e8-bc93-6894a57f9324").is_ok());
        assert!(check_key(&"~".repeat(128)).is_ok());
        for key in ["", "a b", "a\n", "ä", "\u{7f}", &"x".repeat(129)] {
            assert_eq!(
                check_key(key),
                Err(PublishError::BadIdempotencyKey),
                "{key:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_forgotten_after_the_window() {
        let mut keys = Keys::default();
        assert_eq!(publish(&mut keys, "k", 1), (1, false));
        tokio::time::advance(IDEMPOTENCY_WINDOW - Duration::from_millis(1)).await;
        assert_eq!(publish(&mut keys, "k", 2), (1, true));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(publish(&mut keys, "k", 3), (3, false));
        assert_eq!(keys.positions.len(), keys.by_age.len());
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_bound_the_oldest_key_is_forgotten() {
        let mut keys = Keys::default();
        for n in 0..=MAX_IDEMPOTENCY_KEYS as u64 {
            publish(&mut keys, &n.to_string(), n);
        }
        assert_eq!(keys.positions.len(), MAX_IDEMPOTENCY_KEYS);
        assert_eq!(publish(&mut keys, "1", 0), (1, true));
        assert_eq!(publish(&mut keys, "0", 7), (7, false));
    }

    #[test]
    fn a_failed_publish_is_not_remembered() {
        let mut keys = Keys::default();
        let channel = ChannelName::new("a", "b", "c");
        let refused = keys.once(&channel, "k", || Err(PublishError::Unavailable("x".into())));
        assert!(refused.is_err());
        assert_eq!(publish(&mut keys, "k", 1), (1, false));
    }

    #[test]
    fn the_same_key_on_another_channel_is_another_key() {
        let mut keys = Keys::default();
        publish(&mut keys, "k", 1);
        let other = ChannelName::new("a", "b", "d");
        let position = Position {
            epoch: 1,
            offset: 2,
        };
        assert_eq!(
            keys.once(&other, "k", || Ok(position)),
            Ok((position, false))
        );
    }
}
