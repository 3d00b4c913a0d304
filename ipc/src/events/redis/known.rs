//! The newest position that this process has seen: a store that is behind it has lost data.

use std::sync::{Mutex, PoisonError};

use crate::events::position::Position;

pub(super) struct Known(Mutex<Position>);

impl Known {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Position::NOWHERE))
    }

    pub(super) fn get(&self) -> Position {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn raise(&self, position: Position) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = position.max(*known);
    }
}
