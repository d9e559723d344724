//! `forebay config show`: the effective configuration, as a file or as JSON.

use forebay::config::{Key, Place, show};
use serde_json::json;

use super::{
    ConfigArguments, Failure,
    output::{print, print_json},
};

/// Prints what the file, the environment and the flags come to.
pub(super) fn run(arguments: &ConfigArguments, origin: bool, as_json: bool) -> Result<(), Failure> {
    let loaded = arguments.load()?;
    let settings = show::settings(&loaded.config);
    let place: &dyn Fn(&Key) -> Place = &|key| loaded.origins.of(key);
    if as_json {
        let origins: serde_json::Map<_, _> = settings
            .iter()
            .map(|setting| (setting.key().as_str().to_owned(), show::place_to_json(&place(&setting.key()))))
            .collect();
        let document = match origin {
            true => json!({ "config": show::to_json(&settings), "origins": origins }),
            false => json!({ "config": show::to_json(&settings) }),
        };
        print_json(&document)
    } else {
        print(&show::to_toml(&settings, origin.then_some(place)))
    }
}
