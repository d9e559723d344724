//! What a registry knows of uploads under way, and says of what it refuses.

use std::collections::HashMap;

use forebay::oci::Digest;

/// What has come of each upload, by its name.
#[derive(Default)]
pub struct Uploads {
    under_way: HashMap<String, Upload>,
    begun: usize,
    answered: usize,
}

pub struct Upload {
    pub repository: String,
    /// A parameter of its place. It changes with each answer, and has to come back to the letter.
    pub state: String,
    pub bytes: Vec<u8>,
}

impl Uploads {
    /// The name of a new one.
    pub fn begin(&mut self, repository: &str) -> String {
        self.begun += 1;
        let name = format!("upload-{}", self.begun);
        let upload = Upload { repository: repository.to_owned(), state: String::new(), bytes: vec![] };
        self.under_way.insert(name.clone(), upload);
        name
    }

    /// One of this repository, if its state is among the parameters of `place`.
    pub fn find(&mut self, repository: &str, name: &str, place: &str) -> Option<&mut Upload> {
        let upload = self.under_way.get_mut(name)?;
        let mut parameters = place.split(['?', '&']).filter_map(|parameter| parameter.split_once('='));
        let has_state = parameters.any(|(_, value)| value == upload.state);
        (upload.repository == repository && has_state).then_some(upload)
    }

    /// One that is to be answered, with its next state.
    pub fn answered(&mut self, name: &str) -> &Upload {
        self.answered += 1;
        let upload = self.under_way.get_mut(name).unwrap();
        // Signed states have such characters, and are not the same when they are encoded otherwise.
        upload.state = format!("a%2F{}==*~", self.answered);
        upload
    }

    pub fn end(&mut self, name: &str) -> Upload {
        self.under_way.remove(name).unwrap()
    }
}

impl Upload {
    /// What `Range` says has come.
    pub fn range(&self) -> String {
        format!("0-{}", self.bytes.len().saturating_sub(1))
    }
}

/// The digest that is named, if the content has it.
pub fn verified(digest: &str, content: &[u8]) -> Option<Digest> {
    let digest: Digest = digest.parse().ok()?;
    (Digest::of(digest.algorithm(), content) == digest).then_some(digest)
}

/// The body of a refusal.
pub fn errors(code: &str) -> String {
    format!(r#"{{"errors":[{{"code":"{code}","message":"so says the registry"}}]}}"#)
}
