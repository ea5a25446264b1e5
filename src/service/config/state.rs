//! Section `state`: what is remembered of how a run ended.

use std::path::PathBuf;

use super::problem::quoted;
use super::reader::Table;
use super::value::Value;
use super::{StateFolder, StateSettings};

const FOLDER: &str = "allowed: \"auto\", \"off\", or a path with a / in it";

pub(super) fn read(mut table: Table<'_>) -> StateSettings {
    let folder = table.or("folder", StateFolder::Auto, folder);
    let textfile = table.or("textfile", None, |value| textfile(value).map(Some));
    table.finish();
    StateSettings {
        folder: folder.value,
        textfile: textfile.value,
    }
}

/// A misspelt word is not taken for a folder.
fn folder(value: &Value<'_>) -> Option<StateFolder> {
    match value.text("folder = \"/var/lib/orders\"")? {
        "auto" => Some(StateFolder::Auto),
        "off" => Some(StateFolder::Off),
        path if path.contains('/') => Some(StateFolder::At(PathBuf::from(path))),
        other => value.refuse(format!("{} is not known", quoted(other)), FOLDER),
    }
}

/// The collector reads no file of another name.
fn textfile(value: &Value<'_>) -> Option<PathBuf> {
    let example = "textfile = \"/var/lib/node_exporter/orders.prom\"";
    let path = PathBuf::from(value.filled(example)?);
    if path.extension().is_none_or(|extension| extension != "prom") {
        return value.refuse(
            format!(
                "{} does not end with .prom",
                quoted(&path.to_string_lossy())
            ),
            "allowed: a path that does, because node_exporter reads no other",
        );
    }
    Some(path)
}
