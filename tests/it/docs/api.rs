//! docs/api.md shows what the control API answers: an answer has each key of the example, and no key that is not there.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use forebay_test_support::{
    fake_registry::FakeRegistry,
    manifest::{OCI_INDEX, OCI_MANIFEST},
    mirror::Mirror,
    test_server::client,
    until::until,
};

use super::{Document, root};

/// Objects whose keys are no part of the contract: the example shows a few of them.
const OPEN: [&str; 5] = ["cache.kinds", "sums", "config", "origins", "settings"];

/// The resource of each section about a GET, and its example.
fn examples() -> Vec<(String, Value)> {
    let text = Document::read(root().join("docs/api.md")).text;
    let sections = text.split("\n## `GET /api/v1/").skip(1);
    sections
        .filter_map(|section| {
            let (resource, rest) = section.split_once('`')?;
            // A section of another method ends it.
            let rest = rest.split("\n## ").next()?;
            let (example, _) = rest.split_once("```json\n")?.1.split_once("```")?;
            Some((resource.to_owned(), serde_json::from_str(example).unwrap()))
        })
        .collect()
}

/// Each key of a document by its path; the elements of a list share one. What is null has none below.
fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                found.insert(path.clone());
                if !OPEN.contains(&path.as_str()) {
                    keys(value, &path, found);
                }
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| keys(element, path, found)),
        _ => {}
    }
}

fn keys_of(value: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    keys(value, "", &mut found);
    found
}

/// The paths whose values are nothing, so that what is below them cannot be compared.
fn is_below_nothing(document: &Value, path: &str) -> bool {
    let parts: Vec<&str> = path.split('.').collect();
    (1..parts.len()).any(|end| {
        let mut values = vec![document];
        for part in &parts[..end] {
            values = values
                .into_iter()
                .flat_map(|value| match &value[*part] {
                    Value::Array(elements) => elements.iter().collect::<Vec<_>>(),
                    value => vec![value],
                })
                .collect();
        }
        values.iter().all(|value| value.is_null())
    })
}

/// A mirror with an image of one platform, of which it has everything, and with a request of each kind.
async fn mirror(registry: &FakeRegistry) -> Mirror {
    let image = registry.add_image("team/app", "amd64", &[b"a layer"]);
    let child = json!({
        "mediaType": OCI_MANIFEST, "digest": image.manifest.as_str(), "size": image.manifest_bytes.len(),
        "platform": { "os": "linux", "architecture": "amd64" },
    });
    let content = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child] }).to_string();
    let digest = registry.add_manifest("team/app", OCI_INDEX, content);
    registry.tag("team/app", "1", &digest);
    let mirror = Mirror::of(registry).await;
    for path in ["manifests/1".to_owned(), format!("manifests/{}", image.manifest)] {
        assert_eq!(mirror.get(&format!("/v2/team/app/{path}")).await.status, 200);
    }
    for blob in image.layers.iter().chain([&image.config]) {
        assert_eq!(mirror.get(&format!("/v2/team/app/blobs/{blob}")).await.status, 200);
    }
    assert_eq!(mirror.get("/v2/team/app/manifests/1?ns=nvcr.io").await.status, 404);
    mirror
}

async fn ask(mirror: &Mirror, resource: &str) -> Value {
    let url = format!("http://{}/api/v1/{resource}", mirror.app().admin_addr());
    serde_json::from_str(&client().get(url).send().await.unwrap().text().await.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_answers_what_its_document_shows() {
    let registry = FakeRegistry::start().await;
    let mirror = mirror(&registry).await;
    until("the inventory and the history have everything", async || {
        let (images, requests) = (ask(&mirror, "images").await, ask(&mirror, "requests").await);
        let is_complete = images["images"].as_array().unwrap().iter().any(|image| image["complete"] == true);
        is_complete && requests["requests"].as_array().unwrap().len() == 5
    })
    .await;
    let examples = examples();
    assert!(examples.len() >= 8, "{}", examples.len());
    let of_list = |resource: &str| examples.iter().find(|example| example.0 == resource).map(|example| &example.1);
    for (resource, example) in &examples {
        let path = resource.replace("{NAME}", "fake.example/team/app:1");
        let answer = ask(&mirror, &path).await;
        let (mut shown, told) = (keys_of(example), keys_of(&answer));
        if resource == "images/{NAME}" {
            // And what the list tells of each.
            shown.extend(keys_of(&of_list("images").unwrap()["images"][0]));
        }
        let missing: Vec<_> = shown.difference(&told).filter(|path| !is_below_nothing(&answer, path)).collect();
        let unknown: Vec<_> = told.difference(&shown).filter(|path| !is_below_nothing(example, path)).collect();
        assert!(missing.is_empty(), "GET {resource} does not answer {missing:?}: {answer:#}");
        assert!(unknown.is_empty(), "docs/api.md does not show {unknown:?} of GET {resource}: {answer:#}");
    }
}
