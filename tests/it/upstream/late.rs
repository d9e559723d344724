//! Answers that take longer than a request waits.

use forebay::{
    metrics::Operation,
    upstream::{Config, Error, ErrorKind, Need, Place, Write},
};
use http::{HeaderMap, Method};

use super::{MANIFEST, Subject, WHOLE, accept, config, name, read, reference_of};
use crate::support::fake_registry::{FakeRegistry, Fault, Gate, When};

/// Waits as long as a request does, in no time.
async fn in_vain<T>(asking: impl Future<Output = Result<T, Error>>, gate: &Gate) {
    let asked = async {
        gate.reached().await;
        tokio::time::pause();
    };
    let (answer, ()) = tokio::join!(asking, asked);
    tokio::time::resume();
    assert_eq!(answer.err().map(|error| error.kind), Some(ErrorKind::Timeout));
}

async fn ask(subject: &Subject, what: &str, registry: &FakeRegistry) -> Result<Vec<u8>, Error> {
    let (repository, tag) = (name("team/app"), reference_of("1"));
    let upstream = &subject.upstream;
    match what {
        "manifest" => subject.manifest("team/app", "1").await,
        "head" => upstream.head_manifest(&repository, &tag, &accept(&[MANIFEST])).await.map(|_| vec![]),
        "list" => {
            let list = upstream.forward(Operation::Tags, Some(&repository), "team/app/tags/list", &accept(&[])).await;
            list.map(|list| list.body.to_vec())
        }
        _ => read(upstream.open_blob(&repository, &registry.add_blob("team/app", &b"layer"[..]), WHOLE).await?).await,
    }
}

#[tokio::test]
async fn a_late_answer_is_there_for_the_next_try() {
    for what in ["manifest", "head", "list", "blob"] {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[b"layer"]);
        let subject = Subject::of(&registry);
        let expected = ask(&subject, what, &registry).await.unwrap();
        registry.forget_requests();
        let gate = Gate::new();
        registry.fault_times(1, When::any(), Fault::HoldHead(gate.clone()));
        in_vain(ask(&subject, what, &registry), &gate).await;
        gate.open();
        assert_eq!(ask(&subject, what, &registry).await.unwrap(), expected, "{what}");
        assert_eq!(registry.requests().len(), 1, "{what}");
        // It was given once.
        assert_eq!(ask(&subject, what, &registry).await.unwrap(), expected, "{what}");
        assert_eq!(registry.requests().len(), 2, "{what}");
    }
}

#[tokio::test]
async fn a_request_goes_on_while_one_after_another_waits_in_vain() {
    for what in ["manifest", "blob"] {
        let registry = FakeRegistry::start().await;
        registry.add_image("team/app", "1", &[b"layer"]);
        let subject = Subject::of(&registry);
        let expected = ask(&subject, what, &registry).await.unwrap();
        registry.forget_requests();
        let gate = Gate::new();
        registry.fault_times(1, When::any(), Fault::HoldHead(gate.clone()));
        // Two blobs at most go on at a time: each wait takes no further place.
        for _ in 0..4 {
            in_vain(ask(&subject, what, &registry), &gate).await;
        }
        gate.open();
        assert_eq!(ask(&subject, what, &registry).await.unwrap(), expected, "{what}");
        assert_eq!(registry.requests().len(), 1, "{what}");
    }
}

#[tokio::test]
async fn a_late_answer_is_for_the_same_request_alone() {
    let registry = FakeRegistry::start().await;
    registry.add_image("team/app", "1", &[]);
    registry.add_image("team/app", "2", &[]);
    let subject = Subject::new(&Config { push: true, ..config(&registry) });
    let gate = Gate::new();
    registry.fault_times(1, When::manifests(), Fault::HoldHead(gate.clone()));
    in_vain(subject.manifest("team/app", "1"), &gate).await;
    assert!(subject.manifest("team/app", "2").await.is_ok());
    assert_eq!(registry.requests().len(), 2);
    // What was asked before a change is outdated.
    let repository = name("team/app");
    let write = Write {
        method: Method::DELETE,
        repository: &repository,
        place: Place::Below("team/app/manifests/2".to_owned()),
        need: Need::Delete,
        headers: HeaderMap::new(),
    };
    let _ = subject.upstream.write(write, None).await;
    registry.forget_requests();
    assert!(subject.manifest("team/app", "1").await.is_ok());
    assert_eq!(registry.requests().len(), 1);
    gate.open();
}
