//! What an error of the client says, and what its causes say.

use ::aerospike::ResultCode;
use ::aerospike::errors::Error;

pub(super) fn exists(error: &Error) -> bool {
    error.server_result_code() == Some(ResultCode::KeyExistsError)
}

pub(super) fn missing(error: &Error) -> bool {
    error.server_result_code() == Some(ResultCode::KeyNotFoundError)
}

/// An error and its causes.
pub(super) fn causes(error: &Error) -> impl Iterator<Item = &Error> {
    std::iter::successors(Some(error), |error| error.cause()).take(8)
}

pub(super) fn in_chain(error: &Error, test: impl Fn(&Error) -> bool) -> bool {
    causes(error).any(|cause| test(cause) || cause.sub_errors().iter().any(&test))
}

pub(super) fn chain(error: &Error) -> String {
    causes(error).map(Error::base_message).collect::<Vec<_>>().join(": ")
}
