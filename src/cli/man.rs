//! `forebay man`: the manual pages, made of the same texts as `--help`.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use anyhow::Context as _;
use clap::Command;
use clap_mangen::Man;

use super::{Failure, output};

/// A page and the name of its file.
struct Page {
    file: String,
    text: Vec<u8>,
}

/// Prints the page of the program, or writes the pages of all commands into a directory.
///
/// # Errors
/// They cannot be written.
pub(super) fn run(directory: Option<&Path>, command: Command) -> Result<(), Failure> {
    let pages = pages(command).map_err(|error| Failure::Failed(error.into()))?;
    match directory {
        Some(directory) => write(directory, &pages).map_err(Failure::Failed),
        // The page of the program comes first.
        None => pages.first().map_or(Ok(()), |page| output::print(&String::from_utf8_lossy(&page.text))),
    }
}

/// The page of a program, then those of its commands, each before those below it.
fn pages(command: Command) -> io::Result<Vec<Page>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    collect(&command, &mut pages)?;
    Ok(pages)
}

fn collect(command: &Command, pages: &mut Vec<Page>) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let man = Man::new(command.clone()).source(format!("forebay {version}")).manual("forebay");
    let mut text = Vec::new();
    man.render(&mut text)?;
    pages.push(Page { file: man.get_filename(), text });
    command.get_subcommands().try_for_each(|command| collect(command, pages))
}

/// Writes the pages with the modes that readers need, whatever the umask.
fn write(directory: &Path, pages: &[Page]) -> anyhow::Result<()> {
    let failed = |path: &Path| format!("cannot write {}", path.display());
    if !directory.is_dir() {
        DirBuilder::new().create(directory).with_context(|| failed(directory))?;
        fs::set_permissions(directory, Permissions::from_mode(0o755)).with_context(|| failed(directory))?;
    }
    for Page { file, text } in pages {
        let path = directory.join(file);
        fs::write(&path, text).with_context(|| failed(&path))?;
        fs::set_permissions(&path, Permissions::from_mode(0o644)).with_context(|| failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{super::Arguments, *};

    #[test]
    fn each_command_has_its_page() {
        let pages = pages(Arguments::command()).unwrap();
        let names: Vec<_> = pages.iter().map(|page| &*page.file).collect();
        assert_eq!(names[0], "forebay.1");
        for name in ["forebay-serve.1", "forebay-config.1", "forebay-config-diff.1", "forebay-user-add.1"] {
            assert!(names.contains(&name), "{names:?}");
        }
        for Page { file, text } in &pages {
            let text = String::from_utf8(text.clone()).unwrap();
            let title = file.strip_suffix(".1").unwrap();
            let head = format!(".TH {title} 1  \"forebay {}\" forebay", env!("CARGO_PKG_VERSION"));
            assert!(text.lines().any(|line| line == head), "{file}: {text}");
            assert!(text.contains(".SH SYNOPSIS") && text.contains(".SH OPTIONS"), "{file}: {text}");
        }
    }
}
