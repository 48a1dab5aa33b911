//! How records and times are written into columns.

use portcullis_core::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use crate::error::Failure;

/// A record as JSON. `what` and `id` name it in errors.
///
/// It is read back at once: what can be written and not read (JSON nested too deeply: a client chooses what its objects look
/// like) would otherwise spoil every list it is in.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(
    what: &'static str,
    id: &str,
    record: &T,
) -> Result<String, Failure> {
    let json = serde_json::to_string(record).map_err(|error| unreadable(what, id, &error))?;
    decode::<T>(what, id, &json)?;
    Ok(json)
}

/// A record from JSON.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, id: &str, json: &str) -> Result<T, Failure> {
    serde_json::from_str(json).map_err(|error| unreadable(what, id, &error))
}

fn unreadable(what: &'static str, id: &str, error: &serde_json::Error) -> Failure {
    Failure::Record { what, id: id.to_owned(), line: error.line(), column: error.column() }
}

/// Nanoseconds since 1970, for comparing: exact from 1677 to 2262; beyond, the earliest or latest there is.
pub(crate) fn nanoseconds(time: Timestamp) -> i64 {
    let nanoseconds = time.as_nanosecond();
    i64::try_from(nanoseconds).unwrap_or(if nanoseconds < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_time() -> impl Strategy<Value = Timestamp> {
        let seconds = Timestamp::MIN.as_second()..Timestamp::MAX.as_second();
        (seconds, 0..1_000_000_000).prop_map(|(s, ns)| Timestamp::new(s, ns).unwrap_or(Timestamp::MIN))
    }

    proptest! {
        #[test]
        fn columns_never_order_times_otherwise(a in any_time(), b in any_time()) {
            prop_assert!(a > b || nanoseconds(a) <= nanoseconds(b));
            let after = Timestamp::UNIX_EPOCH.checked_add(std::time::Duration::from_nanos(1)).unwrap();
            prop_assert_eq!(nanoseconds(after), 1);
        }

        #[test]
        fn nonsense_is_an_error_that_quotes_nothing(json in "\"?hunter2.{0,20}") {
            let error = decode::<u8>("grant", "7", &json).unwrap_err().to_string();
            prop_assert!(!error.contains("hunter2"), "{}", error);
        }
    }
}
