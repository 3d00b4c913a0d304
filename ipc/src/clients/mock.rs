//! One method of a mock: what it answers, and what it was asked.
//!
//! Never waits and never panics: a call for which nothing is programmed fails with
//! [`IpcError::Internal`] and names the method.
//!
//! Limits: [`MAX_MOCK_ANSWERS`] answers wait; [`MAX_MOCK_CALLS`] calls are remembered, the latest.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::Status;

use crate::error::{IpcError, IpcResult};

/// How many answers of one method can wait to be used. Beyond it they are not taken, and the error
/// of the call that misses one says so.
pub const MAX_MOCK_ANSWERS: usize = 1024;

/// How many calls of one method are remembered; beyond it the oldest are forgotten.
pub const MAX_MOCK_CALLS: usize = 1024;

/// A method with a stream: an answer is the items of one stream. Those after an error are left out.
pub type MockStream<Q, T> = MockMethod<Q, Vec<Result<T, Status>>>;

type Handler<Q, R> = Arc<dyn Fn(&Q) -> IpcResult<R> + Send + Sync>;

/// A programmable method: request `Q`, answer `R`.
///
/// Answers that wait ([`respond`](Self::respond), [`fail_once`](Self::fail_once)) are used up first,
/// in order, one per call; then what was set for every call ([`respond_with`](Self::respond_with),
/// [`fail`](Self::fail)).
pub struct MockMethod<Q, R> {
    name: &'static str,
    script: Mutex<Script<Q, R>>,
}

struct Script<Q, R> {
    answers: VecDeque<IpcResult<R>>,
    refused: u64,
    every: Option<Handler<Q, R>>,
    calls: VecDeque<Q>,
    call_count: u64,
}

impl<Q, R> MockMethod<Q, R> {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            script: Mutex::new(Script {
                answers: VecDeque::new(),
                refused: 0,
                every: None,
                calls: VecDeque::new(),
                call_count: 0,
            }),
        }
    }

    /// Answers one call with `response`.
    pub fn respond(&self, response: R) -> &Self {
        self.queue(Ok(response))
    }

    /// Lets one call fail.
    pub fn fail_once(&self, error: IpcError) -> &Self {
        self.queue(Err(error))
    }

    /// Answers every call for which no answer waits.
    pub fn respond_with(
        &self,
        handler: impl Fn(&Q) -> IpcResult<R> + Send + Sync + 'static,
    ) -> &Self {
        self.lock().every = Some(Arc::new(handler));
        self
    }

    /// Lets every call fail for which no answer waits.
    pub fn fail(&self, status: Status) -> &Self {
        self.respond_with(move |_| Err(status.clone().into()))
    }

    /// How often it was called.
    pub fn call_count(&self) -> u64 {
        self.lock().call_count
    }

    /// What it was called with, in order; of many calls, the latest.
    pub fn calls(&self) -> Vec<Q>
    where
        Q: Clone,
    {
        self.lock().calls.iter().cloned().collect()
    }

    /// What a call with `request` gets.
    pub(super) fn answer(&self, request: Q) -> IpcResult<R>
    where
        Q: Clone,
    {
        let handler = {
            let mut script = self.lock();
            script.remember(request.clone());
            match (script.answers.pop_front(), &script.every) {
                (Some(answer), _) => return answer,
                (None, Some(handler)) => Arc::clone(handler),
                (None, None) => return Err(self.nothing_left(&script)),
            }
        };
        // Without the lock, so that a handler may use the mock.
        handler(&request)
    }

    fn queue(&self, answer: IpcResult<R>) -> &Self {
        let mut script = self.lock();
        if script.answers.len() < MAX_MOCK_ANSWERS {
            script.answers.push_back(answer);
        } else {
            script.refused += 1;
        }
        drop(script);
        self
    }

    fn nothing_left(&self, script: &Script<Q, R>) -> IpcError {
        let name = self.name;
        IpcError::Internal(match script.refused {
            0 => format!("{name} was called, but no answer is programmed for this call"),
            refused => format!(
                "{name} was called, but {refused} answers were not taken: at most \
                 {MAX_MOCK_ANSWERS} can wait"
            ),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Script<Q, R>> {
        // Code of the test does not run under the lock, so what is in there is whole.
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q, R> Script<Q, R> {
    fn remember(&mut self, request: Q) {
        self.call_count += 1;
        if self.calls.len() == MAX_MOCK_CALLS {
            self.calls.pop_front();
        }
        self.calls.push_back(request);
    }
}

impl<Q, R> fmt::Debug for MockMethod<Q, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let script = self.lock();
        f.debug_struct(self.name)
            .field("answers", &script.answers.len())
            .field("every_call", &script.every.is_some())
            .field("calls", &script.call_count)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn method() -> MockMethod<u32, u32> {
        MockMethod::new("Mock::method")
    }

    #[test]
    fn answers_that_wait_go_first_and_in_order_then_what_holds_for_every_call() {
        let method = method();
        method.respond_with(|request| Ok(request * 10));
        method
            .respond(1)
            .fail_once(IpcError::NotFound("x".to_owned()))
            .respond(2);

        assert_eq!(method.answer(5).unwrap(), 1);
        assert!(matches!(method.answer(5), Err(IpcError::NotFound(_))));
        assert_eq!(method.answer(5).unwrap(), 2);
        assert_eq!(method.answer(5).unwrap(), 50);
        assert_eq!(method.answer(6).unwrap(), 60);
        assert_eq!(method.calls(), [5, 5, 5, 5, 6]);
        assert_eq!(method.call_count(), 5);
    }

    #[test]
    fn a_method_told_to_fail_fails_every_time_with_that_status() {
        let method = method();
        method.fail(Status::unavailable("down"));
        for _ in 0..3 {
            let error = method.answer(1).unwrap_err();
            assert_eq!(
                error.to_string(),
                IpcError::from(Status::unavailable("down")).to_string()
            );
        }
    }

    #[test]
    fn a_call_for_which_nothing_is_programmed_fails_and_names_the_method() {
        let error = method().answer(1).unwrap_err();
        assert!(matches!(error, IpcError::Internal(_)), "{error}");
        assert!(error.to_string().contains("Mock::method"), "{error}");
    }

    #[test]
    fn answers_beyond_the_bound_are_not_taken_and_the_call_that_misses_one_says_so() {
        let method = method();
        for _ in 0..MAX_MOCK_ANSWERS + 2 {
            method.respond(1);
        }
        for _ in 0..MAX_MOCK_ANSWERS {
            method.answer(1).unwrap();
        }
        let error = method.answer(1).unwrap_err().to_string();
        assert!(error.contains("2 answers were not taken"), "{error}");
    }

    #[test]
    fn of_many_calls_the_latest_are_remembered_and_all_are_counted() {
        let method = method();
        method.respond_with(|_| Ok(0));
        for request in 0..MAX_MOCK_CALLS as u32 + 3 {
            method.answer(request).unwrap();
        }
        let calls = method.calls();
        assert_eq!((calls.len(), calls[0]), (MAX_MOCK_CALLS, 3));
        assert_eq!(method.call_count(), MAX_MOCK_CALLS as u64 + 3);
    }

    #[test]
    fn a_handler_may_use_its_own_mock() {
        let method = Arc::new(method());
        let inside = Arc::downgrade(&method);
        method.respond_with(move |_| Ok(inside.upgrade().unwrap().calls()[0]));
        assert_eq!(method.answer(7).unwrap(), 7);
    }
}
