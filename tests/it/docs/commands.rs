//! `docs/commands.md` has each command, with its `--help`.
//!
//! `UPDATE_SNAPSHOTS=1 cargo test --test it docs::commands` writes the texts anew, and the sections of new commands at the
//! end; read the difference, and move the sections.

use std::{collections::BTreeMap, env, fmt::Write as _};

use super::*;

/// A command (the program itself is the empty one) and its `--help`.
pub(super) fn all() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    collect("", &mut found);
    found
}

fn collect(command: &str, found: &mut BTreeMap<String, String>) {
    let help = help(command);
    let below = help.split_once("\nCommands:\n").and_then(|(_, rest)| rest.split("\n\n").next()).unwrap_or_default();
    // The first column; lines that go on are indented further.
    for name in below.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next()) {
        if !name.is_empty() && name != "help" {
            collect(format!("{command} {name}").trim_start(), found);
        }
    }
    found.insert(command.to_owned(), help);
}

/// Without variables: COLUMNS would change how wide the text is.
fn help(command: &str) -> String {
    let forebay = Command::new(env!("CARGO_BIN_EXE_forebay"))
        .args(command.split_whitespace().chain(["--help"]))
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(forebay.status.success(), "forebay {command} --help");
    String::from_utf8(forebay.stdout).unwrap()
}

const HEADING: &str = "\n## forebay";
const FENCE: &str = "```text\n";

/// The command of a section, which begins behind [`HEADING`], and its text around the first block and in it.
fn parts(section: &str) -> (&str, Option<(&str, &str, &str)>) {
    let (command, _) = section.split_once('\n').unwrap();
    let block = section.split_once(FENCE).and_then(|(before, rest)| {
        let (block, after) = rest.split_once("```")?;
        Some((before, block, after))
    });
    (command.trim(), block)
}

/// The document with these texts, and with sections for the commands that it does not have.
fn updated(document: &str, commands: &BTreeMap<String, String>) -> String {
    let mut sections = document.split(HEADING);
    let mut text = sections.next().unwrap().to_owned();
    let mut missing = commands.clone();
    for section in sections {
        let (command, block) = parts(section);
        match (missing.remove(command), block) {
            (Some(help), Some((before, _, after))) => write!(text, "{HEADING}{before}{FENCE}{help}```{after}").unwrap(),
            (Some(help), None) => {
                let (heading, prose) = section.split_once('\n').unwrap();
                write!(text, "{HEADING}{heading}\n\n{FENCE}{help}```\n{prose}").unwrap();
            }
            (None, _) => write!(text, "{HEADING}{section}").unwrap(),
        }
    }
    for (command, help) in missing {
        write!(text, "{HEADING} {command}\n\n{FENCE}{help}```\n").unwrap();
    }
    text
}

#[test]
fn the_reference_has_the_help_of_each_command() {
    let path = root().join("docs/commands.md");
    let mut text = fs::read_to_string(&path).unwrap();
    let commands = all();
    assert!(commands.len() > 10, "{:?}", commands.keys());
    if env::var_os("UPDATE_SNAPSHOTS").is_some() {
        text = updated(&text, &commands);
        fs::write(&path, &text).unwrap();
    }
    let documented: Vec<_> = text.split(HEADING).skip(1).map(parts).collect();
    for (command, help) in &commands {
        let texts: Vec<_> = documented.iter().filter(|(name, _)| name == command).collect();
        let is_same = matches!(texts[..], [(_, Some((_, block, _)))] if block == help);
        assert!(is_same, "docs/commands.md, \"forebay {command}\": UPDATE_SNAPSHOTS=1 writes this text\n{help}");
    }
    for (command, _) in &documented {
        assert!(commands.contains_key(*command), "docs/commands.md: there is no forebay {command}");
    }
}
