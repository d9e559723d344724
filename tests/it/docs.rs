//! The documents say what is so: keys, defaults, examples, links, paths and flags.

mod api;
mod commands;
mod scaling;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use forebay::{
    app,
    config::{Config, Overrides},
};
use tempfile::TempDir;

use forebay_test_support::test_ca::TestCa;

/// The keys of a configuration at its top; other TOML in the documents belongs to clients.
const SECTIONS: [&str; 8] = ["state_directory", "server", "admin", "cache", "access", "push", "upstream", "rule"];

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// One file in Markdown.
struct Document {
    path: PathBuf,
    text: String,
}

/// What stands between two fences, and the language behind the first.
struct Block {
    language: String,
    text: String,
}

impl Document {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(&path).unwrap();
        Document { path, text }
    }

    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }

    /// The blocks of code, and the rest.
    fn split(&self) -> (Vec<Block>, String) {
        let (mut blocks, mut prose) = (Vec::new(), String::new());
        let mut open: Option<(usize, Block)> = None;
        for line in self.text.lines() {
            let fence = line.trim_start().strip_prefix("```");
            match (&mut open, fence) {
                (None, Some(language)) => {
                    let indent = line.len() - line.trim_start().len();
                    open = Some((indent, Block { language: language.to_owned(), text: String::new() }));
                }
                (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
                (Some((indent, block)), None) => {
                    block.text.push_str(line.get(*indent..).unwrap_or_default());
                    block.text.push('\n');
                }
                (None, None) => {
                    prose.push_str(line);
                    prose.push('\n');
                }
            }
        }
        assert!(open.is_none(), "{}: a block of code is not closed", self.name());
        (blocks, prose)
    }

    fn blocks(&self, language: &str) -> Vec<String> {
        self.split().0.into_iter().filter(|block| block.language == language).map(|block| block.text).collect()
    }
}

fn markdown_below(folder: &Path, found: &mut Vec<Document>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            markdown_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(Document::read(path));
        }
    }
}

/// All documents for readers.
fn documents() -> Vec<Document> {
    let mut found = Vec::new();
    markdown_below(&root().join("docs"), &mut found);
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"] {
        found.push(Document::read(root().join(name)));
    }
    assert!(found.len() > 10, "the documents were found");
    found
}

/// A directory with the files that the examples name, each of its kind.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let ca = TestCa::new();
    let (certificate, key) = ca.issue(&["mirror.lan"]);
    let authority = fs::read_to_string(ca.path()).unwrap();
    for (name, content) in [
        ("tls.crt", certificate.pem()),
        ("tls.key", key.serialize_pem()),
        ("clients.crt", authority.clone()),
        ("ca.crt", authority),
        ("htpasswd", String::new()),
        ("hub.password", "secret\n".to_owned()),
        ("config.json", r#"{"auths":{"harbor.lan:8443":{"auth":"dXNlcjpzZWNyZXQ="}}}"#.to_owned()),
        ("push.key", "0123456789abcdef0123456789abcdef".to_owned()),
        ("cluster.key", "0123456789abcdef0123456789abcdef".to_owned()),
        ("store.id", "AKIDEXAMPLE".to_owned()),
        ("store.secret", "secret".to_owned()),
    ] {
        fs::write(directory.path().join(name), content).unwrap();
    }
    directory
}

fn overrides() -> Overrides {
    Overrides { cache_dir: Some("/cache".into()), ..Overrides::default() }
}

fn parse(directory: &Path, text: &str) -> Result<Config, forebay::config::Error> {
    Config::parse(text, &directory.join("forebay.toml"), overrides())
}

#[test]
fn each_configuration_in_the_documents_passes_the_check() {
    let directory = directory();
    let mut checked = 0;
    for document in documents() {
        for block in document.blocks("toml") {
            let table: toml::Table = block.parse().unwrap_or_else(|error| panic!("{}: {error}", document.name()));
            if SECTIONS.iter().any(|section| table.contains_key(*section)) {
                let config = parse(directory.path(), &block);
                let config = config.unwrap_or_else(|error| panic!("{}: {error}\n{block}", document.name()));
                let errors = app::check(&config).errors;
                assert!(errors.is_empty(), "{}: {errors:?}\n{block}", document.name());
                checked += 1;
            }
        }
    }
    assert!(checked >= 5, "{checked} configurations were found");
}

#[test]
fn each_json_example_of_the_documents_parses() {
    let mut checked = 0;
    for document in documents() {
        for block in document.blocks("json") {
            let parsed = serde_json::from_str::<serde_json::Value>(&block);
            assert!(parsed.is_ok(), "{}: {}\n{block}", document.name(), parsed.unwrap_err());
            checked += 1;
        }
    }
    assert!(checked >= 2, "{checked} examples were found");
}

#[test]
fn each_shell_example_of_the_documents_parses() {
    let mut checked = 0;
    for document in documents() {
        for block in document.blocks("sh") {
            let shell = Command::new("sh").args(["-n", "-c", &block]).stderr(Stdio::piped()).output().unwrap();
            let said = String::from_utf8_lossy(&shell.stderr);
            assert!(shell.status.success(), "{}: {said}\n{block}", document.name());
            checked += 1;
        }
    }
    assert!(checked >= 3, "{checked} examples were found");
}

/// `#key = …` and `#[table]` are settings that are switched off; `# …` is prose.
fn switched_on(example: &str) -> String {
    let lines = example.lines().map(|line| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with([' ', '#']) => setting,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Every key beneath `path`, without indices.
fn collect_keys(path: &str, value: &toml::Value, keys: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                collect_keys(&path, value, keys);
            }
        }
        toml::Value::Array(items) if items.iter().all(toml::Value::is_table) && !items.is_empty() => {
            items.iter().for_each(|item| collect_keys(path, item, keys));
        }
        _ => {
            keys.insert(path.to_owned());
        }
    }
}

/// The keys of `docs/configuration.md`, each with its default where that is a value: "- `KEY` (…, default `VALUE`): …".
fn documented_keys() -> BTreeMap<String, Option<String>> {
    let text = fs::read_to_string(root().join("docs/configuration.md")).unwrap();
    let text = text.split("\n## Environment").next().unwrap();
    let keys = text.lines().filter_map(|line| line.strip_prefix("- `")).filter_map(|line| {
        let (key, rest) = line.split_once("` (")?;
        let (head, _) = rest.split_once("):").unwrap_or_else(|| panic!("{key}: the line has no \"):\""));
        let default = head.split_once("default `").and_then(|(_, value)| value.strip_suffix('`'));
        Some((key.to_owned(), default.map(str::to_owned)))
    });
    keys.collect()
}

#[test]
fn the_document_and_the_example_have_the_same_keys() {
    let example: toml::Table =
        switched_on(&fs::read_to_string(root().join("config.example.toml")).unwrap()).parse().unwrap();
    let mut keys = BTreeSet::new();
    collect_keys("", &toml::Value::Table(example), &mut keys);
    assert_eq!(documented_keys().into_keys().collect::<BTreeSet<_>>(), keys);
}

#[test]
fn the_defaults_of_the_document_are_those_of_the_program() {
    let directory = directory();
    let read = |text: &str| parse(directory.path(), text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut checked = 0;
    for (key, default) in documented_keys() {
        let Some(default) = default else { continue };
        let (section, name) = key.rsplit_once('.').unwrap();
        let (without, with) = if section == "upstream" {
            let upstream = "[[upstream]]\nname = \"a.example\"\n".to_owned();
            (upstream.clone(), format!("{upstream}{name} = {default}\n"))
        } else if section == "cluster" {
            let cluster = "[cluster]\npeers = [\"http://a:1\"]\nkey_file = \"cluster.key\"\n".to_owned();
            (cluster.clone(), format!("{cluster}{name} = {default}\n"))
        } else if section == "store" {
            let store = "[store]\nurl = \"s3://a\"\n".to_owned();
            (store.clone(), format!("{store}{name} = {default}\n"))
        } else {
            (String::new(), format!("[{section}]\n{name} = {default}\n"))
        };
        assert_eq!(read(&without), read(&with), "{key} = {default}");
        checked += 1;
    }
    assert!(checked >= 20, "{checked} defaults were found");
}

#[test]
fn each_link_between_documents_leads_to_a_heading() {
    for document in documents() {
        let prose = document.split().1;
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let file = match path {
                "" => document.path.clone(),
                path => document.path.parent().unwrap().join(path),
            };
            assert!(file.exists(), "{}: {target}", document.name());
            if !heading.is_empty() {
                let prose = Document::read(file).split().1;
                let found = prose.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(found, "{}: {target}", document.name());
            }
        }
    }
}

/// The anchor that a heading gets: lower case, hyphens for blanks, no punctuation.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn each_file_that_a_document_names_exists() {
    for document in documents() {
        for name in document.text.split('`').skip(1).step_by(2) {
            let path = name.split([' ', ':']).next().unwrap_or_default();
            let is_path = ["src/", "tests/", "docs/", "benches/", ".ci/"].iter().any(|folder| path.starts_with(folder));
            if is_path && !path.contains(['*', '{', 'N']) {
                assert!(root().join(path).exists(), "{}: {path}", document.name());
            }
        }
    }
}

#[test]
fn each_flag_that_a_document_names_exists() {
    let commands = commands::all();
    let mut checked = 0;
    for document in documents() {
        // Flags belong to the commands that have none below them.
        for (command, help) in commands.iter().filter(|(_, help)| !help.contains("\nCommands:\n")) {
            for rest in document.text.split(&format!("forebay {command} ")).skip(1) {
                let call = rest.split(['`', '\n', '#']).next().unwrap_or_default();
                for flag in call.split([' ', '[', ']']).filter(|word| word.starts_with("--")) {
                    assert!(help.contains(flag), "{}: forebay {command} {flag}", document.name());
                    checked += 1;
                }
            }
        }
    }
    assert!(checked >= 5, "{checked} flags were found");
}

#[test]
fn no_line_of_a_document_is_wider_than_120_columns() {
    for document in documents() {
        for (index, line) in document.text.lines().enumerate() {
            let width = line.chars().count();
            assert!(width <= 120, "{}:{}: {width} columns", document.name(), index + 1);
        }
    }
}

/// The messages that the table of symptoms quotes are those of the program.
#[test]
fn each_quoted_message_is_in_the_source() {
    let mut source = String::new();
    read_below(&root().join("src"), &mut source);
    let source = source.split_whitespace().collect::<Vec<_>>().join(" ");
    let operations = Document::read(root().join("docs/operations.md"));
    let symptoms = operations.text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    let mut checked = 0;
    for quoted in symptoms.flat_map(|symptom| symptom.split('"').skip(1).step_by(2)).filter(|text| text.len() > 8) {
        assert!(source.contains(quoted), "docs/operations.md: {quoted:?} is in no message");
        checked += 1;
    }
    assert!(checked >= 5, "{checked} messages were found");
}

fn read_below(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_below(&path, text);
        } else {
            text.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// Each file and folder at the top of `src` has its line in the map.
#[test]
fn the_map_of_the_source_is_complete() {
    let text = Document::read(root().join("ARCHITECTURE.md"));
    let map = text.blocks("text").into_iter().find(|block| block.starts_with("src/")).expect("there is a map");
    let words: BTreeSet<&str> = map.split([' ', ',', '\n']).map(|word| word.trim_end_matches('/')).collect();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let entry = entry.unwrap();
        // git leaves empty folders behind.
        if entry.path().is_dir() {
            let mut files = String::new();
            read_below(&entry.path(), &mut files);
            if files.is_empty() {
                continue;
            }
        }
        let name = entry.file_name().into_string().unwrap();
        let stem = name.trim_end_matches(".rs");
        assert!(words.contains(&*name) || words.contains(stem), "ARCHITECTURE.md does not name src/{name}");
    }
}

/// The first word of a line in the walks is a file or folder of `src`, or of `src/cache`.
#[test]
fn each_file_of_the_walks_exists() {
    let text = Document::read(root().join("ARCHITECTURE.md"));
    let mut checked = 0;
    for block in text.blocks("text").iter().filter(|block| !block.starts_with("src/")) {
        for name in block.lines().filter_map(|line| line.split_whitespace().next()).filter(|name| name.contains('/')) {
            let files = ["", "cache/"].map(|folder| root().join("src").join(format!("{folder}{name}")));
            let exists = files.iter().any(|file| file.is_dir() || file.with_extension("rs").exists());
            assert!(exists, "ARCHITECTURE.md: {name}");
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked} files were found");
}

/// The first commands of the README: those of `tests/real/two_commands.rs`, and the test runner.
#[test]
fn the_quick_start_names_what_exists() {
    let readme = Document::read(root().join("README.md"));
    let commands = readme.blocks("sh").concat();
    assert!(commands.contains("cargo run --release -- serve "), "{commands}");
    assert!(commands.contains("./tests/run ") && root().join("tests/run").exists(), "{commands}");
}

#[test]
fn the_first_documents_stay_short() {
    for (name, lines, words) in [("README.md", 150, 1_100), ("ARCHITECTURE.md", 200, 2_500)] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        assert!(text.lines().count() <= lines, "{name} has {} lines", text.lines().count());
        assert!(text.split_whitespace().count() <= words, "{name} has {} words", text.split_whitespace().count());
    }
    for document in documents().iter().filter(|document| document.name().starts_with("docs/decisions/")) {
        assert!(document.text.lines().count() <= 60, "{}", document.name());
    }
}

/// The README compares by figures of the last run of the benchmark.
#[test]
fn the_figures_of_the_readme_are_those_of_the_results() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let results = fs::read_to_string(root().join("benches/RESULTS.md")).unwrap().replace(" /s |", " requests/s |");
    let (_, table) = readme.split_once("| work | other | forebay |\n").unwrap();
    let mut found = 0;
    for row in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
        for cell in row.split('|').skip(2) {
            let texts =
                cell.split([':', ',']).map(str::trim).filter(|text| text.starts_with(|c: char| c.is_ascii_digit()));
            for text in texts {
                let figure = match text.split_once(" of the CPU time") {
                    Some((ratio, _)) => format!("| {ratio} ("),
                    None => format!("| {} |", text.trim_end_matches(" from the upstream")),
                };
                assert!(results.contains(&figure), "{row}: {figure}");
                found += 1;
            }
        }
    }
    assert!(found >= 15, "{found} figures were found");
}
