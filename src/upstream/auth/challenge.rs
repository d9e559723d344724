//! `WWW-Authenticate`: how an upstream authenticates its clients.
//!
//! The header is a list of challenges, each with a list of parameters. A comma separates the elements of both lists:
//! only what follows a word tells whether the word is a scheme or a parameter. A header that cannot be parsed, or an
//! unknown scheme, must not hide the challenges next to it. [`super::realm`] decides which realm may see a credential.
//!
//! Source: RFC 9110 section 11.6.1; RFC 6750 section 3 for Bearer; RFC 7617 for Basic.

use http::HeaderValue;

use crate::oci::is_token_byte;

/// The most bytes of headers that forebay parses, in all.
const MAX_BYTES: usize = 16 * 1024;
/// The most challenges that forebay parses.
const MAX_CHALLENGES: usize = 16;

/// One challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    Bearer(Bearer),
    Basic {
        realm: Option<String>,
    },
    /// A scheme that forebay does not support, or a Bearer challenge without a realm.
    Other(String),
}

/// Where to request a token, and for what. An empty parameter counts as absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The URL of the realm, as the upstream sent it.
    pub realm: String,
    pub service: Option<String>,
    /// As the upstream sent it: it may name more than the request needs.
    pub scope: Option<String>,
}

/// The challenges of all `WWW-Authenticate` headers of a response, in their order.
pub fn parse<'a>(values: impl Iterator<Item = &'a HeaderValue>) -> Vec<Challenge> {
    let mut drafts: Vec<Draft> = Vec::new();
    let mut budget = MAX_BYTES;
    for value in values {
        let bytes = value.as_bytes();
        let Some(rest) = budget.checked_sub(bytes.len()) else { break };
        budget = rest;
        Parser { bytes, at: 0 }.parse_into(&mut drafts);
    }
    drafts.truncate(MAX_CHALLENGES);
    drafts.into_iter().map(Challenge::from).collect()
}

/// A challenge that is being parsed. Of a repeated parameter, the first counts.
#[derive(Default)]
struct Draft {
    scheme: String,
    realm: Option<String>,
    service: Option<String>,
    scope: Option<String>,
}

impl Draft {
    fn set(&mut self, name: &str, value: String) {
        let slot = match name.to_ascii_lowercase().as_str() {
            "realm" => &mut self.realm,
            "service" => &mut self.service,
            "scope" => &mut self.scope,
            _ => return,
        };
        slot.get_or_insert(value);
    }
}

impl From<Draft> for Challenge {
    fn from(draft: Draft) -> Self {
        let present = |value: Option<String>| value.filter(|value| !value.is_empty());
        if draft.scheme.eq_ignore_ascii_case("basic") {
            return Self::Basic { realm: draft.realm };
        }
        match present(draft.realm) {
            Some(realm) if draft.scheme.eq_ignore_ascii_case("bearer") => {
                Self::Bearer(Bearer { realm, service: present(draft.service), scope: present(draft.scope) })
            }
            _ => Self::Other(draft.scheme),
        }
    }
}

/// Parses one header value from its start to its end; every step moves forward.
struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Parser<'_> {
    fn parse_into(mut self, drafts: &mut Vec<Draft>) {
        loop {
            self.skip(|byte| matches!(byte, b' ' | b'\t' | b','));
            if self.peek().is_none() || drafts.len() > MAX_CHALLENGES {
                return;
            }
            let word = self.take(is_token_byte);
            if word.is_empty() {
                // No challenge can begin here; what follows the next comma may be valid.
                self.skip(|byte| byte != b',');
                continue;
            }
            if self.equals_sign() {
                let value = self.value();
                if let (Some(draft), Some(value)) = (drafts.last_mut(), value) {
                    draft.set(&word, value);
                }
                continue;
            }
            drafts.push(Draft { scheme: word, ..Draft::default() });
            self.skip_token68();
        }
    }

    /// Takes `BWS "=" BWS`.
    fn equals_sign(&mut self) -> bool {
        let start = self.at;
        self.skip_space();
        if self.peek() == Some(b'=') {
            self.at += 1;
            self.skip_space();
            return true;
        }
        self.at = start;
        false
    }

    /// A parameter's value: a quoted string, or all up to the next comma or space, since some registries send realms
    /// without quotes. `None` for a quoted string without an end quote; it ends with the header.
    fn value(&mut self) -> Option<String> {
        if self.peek() != Some(b'"') {
            return Some(self.take(|byte| !matches!(byte, b' ' | b'\t' | b',')));
        }
        self.at += 1;
        let mut text = Vec::new();
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => return Some(String::from_utf8_lossy(&text).into_owned()),
                b'\\' => {
                    text.extend(self.peek());
                    self.at += 1;
                }
                byte => text.push(byte),
            }
        }
        None
    }

    /// Takes a token68 (`Negotiate abc==`), which stands alone between its scheme and the next comma.
    fn skip_token68(&mut self) {
        let start = self.at;
        self.skip_space();
        self.skip(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/'));
        self.skip(|byte| byte == b'=');
        self.skip_space();
        if !matches!(self.peek(), None | Some(b',')) {
            self.at = start;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        self.skip(|byte| matches!(byte, b' ' | b'\t'));
    }

    fn skip(&mut self, want: impl Fn(u8) -> bool) {
        while self.peek().is_some_and(&want) {
            self.at += 1;
        }
    }

    fn take(&mut self, want: impl Fn(u8) -> bool) -> String {
        let start = self.at;
        self.skip(want);
        String::from_utf8_lossy(&self.bytes[start..self.at]).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(values: &[&str]) -> Vec<Challenge> {
        let values: Vec<HeaderValue> =
            values.iter().map(|value| HeaderValue::from_bytes(value.as_bytes()).unwrap()).collect();
        parse(values.iter())
    }

    fn bearer(
        realm: &str,
        service: impl Into<Option<&'static str>>,
        scope: impl Into<Option<&'static str>>,
    ) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer(Bearer { realm: realm.into(), service: owned(service.into()), scope: owned(scope.into()) })
    }

    fn basic(realm: &str) -> Challenge {
        Challenge::Basic { realm: Some(realm.into()) }
    }

    fn other(scheme: &str) -> Challenge {
        Challenge::Other(scheme.into())
    }

    #[test]
    fn real_registries() {
        for (registry, value, challenge) in [
            (
                "Docker Hub",
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/x:pull""#,
                bearer("https://auth.docker.io/token", "registry.docker.io", "repository:library/x:pull"),
            ),
            (
                "Tencent CCR, the base",
                r#"Bearer realm="https://ccr.ccs.tencentyun.com/service/token",service="token-service""#,
                bearer("https://ccr.ccs.tencentyun.com/service/token", "token-service", None),
            ),
            (
                "Tencent CCR, a repository",
                r#"Bearer realm="https://hkccr.ccs.tencentyun.com/service/token",service="token-service",scope="repository:ns/repo:pull,push""#,
                bearer(
                    "https://hkccr.ccs.tencentyun.com/service/token",
                    "token-service",
                    "repository:ns/repo:pull,push",
                ),
            ),
            (
                "Harbor",
                r#"Bearer realm="https://harbor.example/service/token",service="harbor-registry""#,
                bearer("https://harbor.example/service/token", "harbor-registry", None),
            ),
            ("Harbor, an invalid header or the catalog", r#"Basic realm="harbor""#, basic("harbor")),
            (
                "GHCR",
                r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:owner/image:pull""#,
                bearer("https://ghcr.io/token", "ghcr.io", "repository:owner/image:pull"),
            ),
            (
                "Quay",
                r#"Bearer realm="https://quay.io/v2/auth",service="quay.io",scope="repository:coreos/etcd:pull,push""#,
                bearer("https://quay.io/v2/auth", "quay.io", "repository:coreos/etcd:pull,push"),
            ),
            (
                "ECR, private",
                r#"Basic realm="https://1.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#,
                basic("https://1.dkr.ecr.eu-west-1.amazonaws.com/"),
            ),
            (
                "ECR, public",
                r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#,
                bearer("https://public.ecr.aws/token/", "public.ecr.aws", "aws"),
            ),
            (
                "ACR",
                r#"Bearer realm="https://x.azurecr.io/oauth2/token",service="x.azurecr.io",scope="repository:a:metadata_read""#,
                bearer("https://x.azurecr.io/oauth2/token", "x.azurecr.io", "repository:a:metadata_read"),
            ),
            (
                "GCR",
                r#"Bearer realm="https://gcr.io/v2/token",service="gcr.io",scope="repository:p/i:pull""#,
                bearer("https://gcr.io/v2/token", "gcr.io", "repository:p/i:pull"),
            ),
            (
                "NVCR: no service",
                r#"Bearer realm="https://nvcr.io/proxy_auth",scope="repository:nvidia/cuda:pull,push""#,
                bearer("https://nvcr.io/proxy_auth", None, "repository:nvidia/cuda:pull,push"),
            ),
            (
                "Aliyun: colons in the service",
                r#"Bearer realm="https://dockerauth.cn-hangzhou.aliyuncs.com/auth",service="registry.aliyuncs.com:cn-hangzhou:26842",scope="repository:a/b:pull,push""#,
                bearer(
                    "https://dockerauth.cn-hangzhou.aliyuncs.com/auth",
                    "registry.aliyuncs.com:cn-hangzhou:26842",
                    "repository:a/b:pull,push",
                ),
            ),
        ] {
            assert_eq!(read(&[value]), [challenge], "{registry}");
        }
    }

    #[test]
    fn the_grammar() {
        for (values, challenges) in [
            (&[][..], vec![]),
            (&[""], vec![]),
            (&[" , ,"], vec![]),
            // Several challenges, in one header and in several.
            (&[r#"Basic realm="q", Bearer realm="u",service="s""#], vec![basic("q"), bearer("u", "s", None)]),
            (&[r#"Bearer realm="u",service="s",Basic realm="q""#], vec![bearer("u", "s", None), basic("q")]),
            (&[r#"Basic realm="q""#, r#"Bearer realm="u""#], vec![basic("q"), bearer("u", None, None)]),
            // Two lines are one list.
            (&[r#"Bearer realm="u""#, r#"service="s""#], vec![bearer("u", "s", None)]),
            // A token68 stands alone.
            (&[r#"Negotiate abc==, Bearer realm="u""#], vec![other("Negotiate"), bearer("u", None, None)]),
            (
                &[r#"Bearer realm="u", Negotiate a-._~+/9=,Basic realm="q""#],
                vec![bearer("u", None, None), other("Negotiate"), basic("q")],
            ),
            (&["Negotiate, NTLM , Basic"], vec![other("Negotiate"), other("NTLM"), Challenge::Basic { realm: None }]),
            (
                &[r#"Digest realm="d, Basic realm=x", qop="auth,auth-int", Basic realm="q""#],
                vec![other("Digest"), basic("q")],
            ),
            // Case, space, commas.
            (&[r#"bearer REALM="u",Service="s""#], vec![bearer("u", "s", None)]),
            (&["BEARER\trealm = \"u\"\t,\tservice =\"s\""], vec![bearer("u", "s", None)]),
            (&[r#",, Bearer realm="u",, service="s",,"#], vec![bearer("u", "s", None)]),
            (&[r#"Bearer,realm="u""#], vec![bearer("u", None, None)]),
            (&[r#"Bearer realm="u" service="s""#], vec![bearer("u", "s", None)]),
            // Values.
            (&[r#"Bearer realm="a\"b\\c\,d",service="s""#], vec![bearer(r#"a"b\c,d"#, "s", None)]),
            (
                &["Bearer realm=https://h/t?a=b,service=s:1,scope=repository:a/b:pull"],
                vec![bearer("https://h/t?a=b", "s:1", "repository:a/b:pull")],
            ),
            (&[r#"Bearer realm="u",service="",scope="""#], vec![bearer("u", None, None)]),
            (&[r#"Bearer realm="u",realm="evil",service="s",service="t""#], vec![bearer("u", "s", None)]),
            (&[r#"Bearer realm="ü",service="s""#], vec![bearer("ü", "s", None)]),
            (&["Basic realm=\"\""], vec![basic("")]),
            // A broken challenge does not hide its neighbours.
            (&[r#"Bearer service="s""#], vec![other("Bearer")]),
            (&[r#"Bearer realm="",service="s""#], vec![other("Bearer")]),
            (&[r#"Bearer realm="u"#, r#"Basic realm="q""#], vec![other("Bearer"), basic("q")]),
            (&[r#"Bearer realm="u\"#, r#"Basic realm="q""#], vec![other("Bearer"), basic("q")]),
            (&[r#"Bearer realm="u",service="s"#], vec![bearer("u", None, None)]),
            (&[r#"realm="u", Basic realm="q""#], vec![basic("q")]),
            (&[r#"="u" é, Basic realm="q""#], vec![basic("q")]),
            (&[r#"Bearer realm="u", @@@, service="s""#], vec![bearer("u", "s", None)]),
            (&["\"Bearer realm=\", Basic realm=q"], vec![basic("q")]),
        ] {
            assert_eq!(read(values), challenges, "{values:?}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf_8_stay_in_their_value() {
        let value = HeaderValue::from_bytes(b"Basic realm=\"Zug\xe4nge\", Bearer realm=\"u\"").unwrap();
        assert_eq!(parse([&value].into_iter()), [basic("Zug\u{fffd}nge"), bearer("u", None, None)]);
    }

    #[test]
    fn the_number_and_the_length_are_bounded() {
        assert_eq!(read(&["a,".repeat(1000).as_str()]).len(), MAX_CHALLENGES);
        assert_eq!(read(&["Basic realm=x"; 100]).len(), MAX_CHALLENGES);
        let long = format!("Bearer realm=\"{}\"", "x".repeat(MAX_BYTES));
        assert_eq!(read(&["Basic realm=q", &long]), [basic("q")]);
        // The parser keeps the last challenge whole.
        let full = format!("{}Bearer realm=\"u\",service=\"s\", Basic", "a, ".repeat(MAX_CHALLENGES - 1));
        assert_eq!(read(&[&full]).last(), Some(&bearer("u", "s", None)));
    }

    proptest! {
        #[test]
        fn any_header_is_parsed_without_a_panic(
            raw in prop::collection::vec(any::<u8>(), 0..64),
            text in "([Bb]earer|Basic|X|realm|scope|=|,|\"|\\\\| |a)*",
        ) {
            for bytes in [raw.as_slice(), text.as_bytes()] {
                if let Ok(value) = HeaderValue::from_bytes(bytes) {
                    prop_assert!(parse([&value, &value].into_iter()).len() <= MAX_CHALLENGES);
                }
            }
        }

        #[test]
        fn quoted_values_are_parsed_back(realm in "[ -~]{1,24}", service in "[ -~]{1,24}", scope in "[ -~]{1,24}", basic_first: bool) {
            let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let ours = format!("Bearer realm={},service={} , scope={}", quote(&realm), quote(&service), quote(&scope));
            let value = if basic_first { format!("Basic realm=\"q\", {ours}") } else { format!("{ours}, Basic realm=\"q\"") };
            let expected = Challenge::Bearer(Bearer { realm, service: Some(service), scope: Some(scope) });
            let read = read(&[&value]);
            prop_assert_eq!(read.len(), 2);
            prop_assert_eq!(&read[usize::from(basic_first)], &expected);
        }
    }
}
