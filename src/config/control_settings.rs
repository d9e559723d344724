//! Where a configuration puts the control socket: for the commands that ask the running forebay.
//!
//! What must hold: nothing else of the configuration matters. A command works for a user who may read no secret, and beside a
//! file that a reload has refused.

use std::path::{Path, PathBuf};

use super::{
    File, Variables,
    document::Document,
    error::{Error, Key, Mistake},
    found, paths,
    schema::Schema,
    well_known,
};

/// Where the control socket may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSettings {
    /// `admin.socket`.
    pub socket: Option<PathBuf>,
    /// `state_directory`, or its default.
    pub state_directory: Option<PathBuf>,
}

impl Default for ControlSettings {
    /// Those of an empty configuration.
    fn default() -> Self {
        Self { socket: None, state_directory: paths::default_directory(paths::Purpose::State) }
    }
}

/// Reads the settings from the file at `path`, or the default file, and the variables, without the checks of what the values
/// mean. The mistake is one because of which a setting may be missing.
///
/// # Errors
/// The file cannot be read, or it cannot be told what it says of the settings.
pub fn load_control_settings(
    path: Option<&Path>,
    variables: &Variables,
) -> Result<(ControlSettings, Option<Mistake>), Error> {
    let found = found(path)?;
    let (path, text) = found.as_ref().map_or((None, ""), |(path, text)| (Some(&**path), text));
    let schema = Schema::of::<File>();
    let document = Document::new(path, text, variables, &schema, &well_known::names());
    let sections = document.read::<File>(&schema)?;
    let (socket, state_directory) = (Key::new("admin").field("socket"), Key::new("state_directory"));
    for key in [&socket, &state_directory] {
        document.known(key)?;
    }
    let unread = document.unread_mistake();
    let is_found = sections.admin.socket().is_some() || sections.state_directory.is_some();
    if let Some(mistake) = unread.clone().filter(|_| !is_found) {
        return Err(mistake.into());
    }
    let resolve = |key: &Key, path: Option<PathBuf>| {
        path.filter(|path| !path.as_os_str().is_empty()).map(|path| document.resolve(key, &path))
    };
    let default = ControlSettings::default();
    let settings = ControlSettings {
        socket: resolve(&socket, sections.admin.socket().map(Path::to_owned)),
        state_directory: resolve(&state_directory, sections.state_directory).or(default.state_directory),
    };
    Ok((settings, unread))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn load(text: &str) -> Result<(Option<PathBuf>, bool), Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("forebay.toml");
        fs::write(&path, text).unwrap();
        let (settings, mistake) = load_control_settings(Some(&path), &Variables::default())?;
        let socket = settings.socket.map(|socket| socket.strip_prefix(directory.path()).unwrap().to_owned());
        Ok((socket, mistake.is_some()))
    }

    #[test]
    fn mistakes_elsewhere_do_not_matter() {
        for text in [
            "[admin]\nsocket = \"a.sock\"\n",
            "[admin]\nsocket = \"a.sock\"\nlisten = 7\ntoken_file = \"none\"\nnonsense = 1\n",
            "[admin]\nsocket = \"a.sock\"\n[cache]\nmax_size = \"much\"\n[access]\nhtpasswd = \"none\"\n[nonsense]\n",
            "[admin]\nsocket = \"a.sock\"\n[[upstream]]\npassword_file = \"none\"\nurls = [\"x\"]\n",
        ] {
            assert_eq!(load(text), Ok((Some("a.sock".into()), false)), "{text}");
        }
        assert_eq!(load(""), Ok((None, false)));
    }

    #[test]
    fn a_line_that_is_no_toml_leaves_a_doubt() {
        let (socket, has_doubt) = load("[admin]\nsocket = \"a.sock\"\n[cache]\nmax_size = 50 GiB\n").unwrap();
        assert_eq!((socket, has_doubt), (Some("a.sock".into()), true));
    }

    #[test]
    fn what_leaves_the_socket_unknown_is_an_error() {
        for text in
            ["[admin]\nsocket = 7\n", "admin = 7\n", "state_directory = []\n", "a = \"\"\"\n[admin]\nsocket = \"a\"\n"]
        {
            assert!(load(text).is_err(), "{text}");
        }
        assert!(load_control_settings(Some(Path::new("none.toml")), &Variables::default()).is_err());
    }
}
