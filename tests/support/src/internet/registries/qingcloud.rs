//! QingCloud's `dockerhub.qingcloud.com`: distribution with users of its own. Repositories may have a single component and
//! mean just that. How it challenges is not known, so both ways of distribution are tried.

use super::super::dialect::{DISTRIBUTION, Dialect, Mount, REALM, Realm, Refusal, UNAUTHORIZED};

pub const TOKENS: Dialect = Dialect {
    name: "dockerhub.qingcloud.com",
    url: "https://dockerhub.qingcloud.com",
    challenges: &[
        r#"Bearer realm="https://dockerhub.qingcloud.com/auth",service="dockerhub.qingcloud.com",scope="repository:{repository}:pull""#,
    ],
    base_challenges: &[r#"Bearer realm="https://dockerhub.qingcloud.com/auth",service="dockerhub.qingcloud.com""#],
    realm: Some(Realm {
        url: "https://dockerhub.qingcloud.com/auth",
        service: Some("dockerhub.qingcloud.com"),
        ..REALM
    }),
    users: &[("someone", "secret:with:colons")],
    public: &["wordpress", "library/nginx"],
    private: &["team", "team/app"],
    empty: &["pushed", "team/pushed"],
    ..DISTRIBUTION
};

/// Passwords are sent to the registry itself, for everything.
pub const PASSWORDS: Dialect = Dialect {
    challenges: &[r#"Basic realm="Registry Realm""#],
    base_challenges: &[r#"Basic realm="Registry Realm""#],
    realm: None,
    takes_passwords: true,
    public: &[],
    private: &["wordpress", "team/app"],
    mount: Mount::Refused(Refusal(401, UNAUTHORIZED)),
    ..TOKENS
};
