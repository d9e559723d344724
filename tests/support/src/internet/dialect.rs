//! What is peculiar to a registry, as data.

/// A registry: where it is, how it wants to be asked, where it leads. [`DISTRIBUTION`] is what is usual.
#[derive(Clone, Copy)]
pub struct Dialect {
    /// As it stands in image names.
    pub name: &'static str,
    /// Scheme, host and perhaps port.
    pub url: &'static str,
    /// What an operator has to write beside the name.
    pub configuration: &'static str,
    /// `WWW-Authenticate` of a request for a repository, a header for each; `{repository}` and `{action}` are replaced.
    /// No authentication.
    pub challenges: &'static [&'static str],
    /// The same of a request for no repository.
    pub base_challenges: &'static [&'static str],
    /// The same of a request with an Authorization that is not good, where that is another.
    pub bad_challenges: Option<&'static [&'static str]>,
    /// The body of these answers.
    pub unauthorized: &'static str,
    /// Where tokens are had.
    pub realm: Option<Realm>,
    /// Whether a password may be sent to the registry itself.
    pub takes_passwords: bool,
    /// What a wrong one is answered with; `None`: with a challenge.
    pub wrong_password: Option<Refusal>,
    /// Names and passwords. All of them may pull everything.
    pub users: &'static [(&'static str, &'static str)],
    /// Repositories that need no credentials, each with one image.
    pub public: &'static [&'static str],
    pub private: &'static [&'static str],
    /// What a token must allow for a list of tags.
    pub tags_action: &'static str,
    /// How manifests, and blobs, are redirected.
    pub manifests: Option<Redirect>,
    pub blobs: Option<Redirect>,
    /// The answer to the HEAD of a blob, if it is not what a GET's would be.
    pub blob_head: Option<Refusal>,
    /// How many manifests may be got.
    pub limit: Option<Limit>,
    /// Repositories that are empty. Users may push to these and to all others.
    pub empty: &'static [&'static str],
    /// Where an upload goes on; `{repository}`, `{session}` and `{state}` are replaced.
    pub upload: &'static str,
    pub mount: Mount,
    /// What a deletion is answered with; `None`: it is made.
    pub delete: Option<Refusal>,
}

/// What becomes of the mount of a blob that another repository has.
#[derive(Clone, Copy)]
pub enum Mount {
    Made,
    /// An upload begins in its place.
    Begun,
    Refused(Refusal),
}

/// A token realm. It refuses another service than its own, scopes it cannot read, and an `account` that is not the
/// user of the request.
#[derive(Clone, Copy)]
pub struct Realm {
    pub url: &'static str,
    pub service: Option<&'static str>,
    /// The names under which the token stands in its answer.
    pub fields: &'static [&'static str],
    pub post: Post,
    pub wrong_password: Refusal,
    /// What the nameless get where they may not pull; `None`: a token that is good for nothing.
    pub nameless: Option<Refusal>,
}

/// What a realm does with a POST.
#[derive(Clone, Copy)]
pub enum Post {
    /// This status, whatever is asked.
    Unknown(u16),
    /// This refresh token gets a token, a password this status.
    Refresh { token: &'static str, password: u16 },
}

/// A status and a body.
#[derive(Clone, Copy)]
pub struct Refusal(pub u16, pub &'static str);

/// Where a request is led to. `{repository}`, `{reference}`, `{hex}` and `{signature}` are replaced. With a signature in it
/// the URL is good for one GET, besides any HEAD; without, for ever.
#[derive(Clone, Copy)]
pub struct Redirect {
    pub status: u16,
    pub location: &'static str,
    /// Whether the signature is for GET alone, as S3's are.
    pub get_only: bool,
    /// What the target answers to an Authorization; `None`: it does not mind.
    pub authorization: Option<Refusal>,
    /// The target's response to a URL without a valid signature, with one for another method, or that is used again.
    pub expired: Refusal,
}

/// So many manifests can be got (HEADs are free); then 429, with this `Retry-After` and body. `headers` stand on every
/// manifest; `{remaining}` is replaced.
#[derive(Clone, Copy)]
pub struct Limit {
    pub pulls: usize,
    pub headers: &'static [(&'static str, &'static str)],
    pub retry_after: &'static str,
    pub body: &'static str,
}

pub const UNAUTHORIZED: &str = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
pub const DENIED: &str = r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#;

/// A registry of CNCF distribution without any habits of its own.
pub const DISTRIBUTION: Dialect = Dialect {
    name: "",
    url: "",
    configuration: "",
    challenges: &[],
    base_challenges: &[],
    bad_challenges: None,
    unauthorized: UNAUTHORIZED,
    realm: None,
    takes_passwords: false,
    wrong_password: None,
    users: &[],
    public: &[],
    private: &[],
    tags_action: "pull",
    manifests: None,
    blobs: None,
    blob_head: None,
    limit: None,
    empty: &[],
    upload: "/v2/{repository}/blobs/uploads/{session}?_state={state}",
    mount: Mount::Made,
    delete: None,
};

/// A realm of the usual kind.
pub const REALM: Realm = Realm {
    url: "",
    service: None,
    fields: &["token"],
    post: Post::Unknown(405),
    wrong_password: Refusal(401, UNAUTHORIZED),
    nameless: None,
};
