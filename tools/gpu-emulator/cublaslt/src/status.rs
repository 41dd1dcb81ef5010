//! The status codes that this library answers. Numbers are fixed by the API.

/// Why a call was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Refusal {
    /// There is no driver, or no context.
    NotInitialized = 1,
    /// An argument is wrong.
    InvalidValue = 7,
    /// The driver refused the work.
    ExecutionFailed = 13,
    /// A bug of this library, or an injected fault.
    InternalError = 14,
    /// Nothing here can do that.
    NotSupported = 15,
}

/// What the calls answer, before it becomes a code.
pub type Outcome<T> = Result<T, Refusal>;

/// The code of an outcome.
pub fn code(outcome: Outcome<()>) -> i32 {
    outcome.map_or_else(|refusal| refusal as i32, |()| 0)
}
