//! A timeline as JSON: a [`TimelineDocument`](crate::TimelineDocument), written item by item.

use std::io::Write;

use serde_json::to_string;

use super::ExportError;
use crate::clean;
use crate::summary::Summary;
use crate::timeline::{Item, TIMELINE_VERSION};

/// Writes the timeline as one JSON object, an item a line. Characters that could do harm on a terminal are escaped.
///
/// # Errors
/// [`ExportError`].
pub fn json<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    out: &mut impl Write,
    summary: &Summary,
    items: impl IntoIterator<Item = Result<Item, E>>,
) -> Result<(), ExportError> {
    write!(out, "{{\"v\":{TIMELINE_VERSION},\"session\":{},\"items\":[", clean::json(&to_string(summary)?))?;
    let mut comma = "";
    for item in items {
        let item = item.map_err(ExportError::records)?;
        write!(out, "{comma}\n{}", clean::json(&to_string(&item)?))?;
        comma = ",";
    }
    writeln!(out, "\n]}}")?;
    Ok(())
}
