//! A URL as it may be logged: without userinfo, query and fragment. A signed URL is a credential.

use std::fmt;

use reqwest::Url;

pub(super) struct RedactedUrl<'a>(pub &'a Url);

impl fmt::Display for RedactedUrl<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        if let Some(port) = self.0.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(self.0.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redacted_url_has_no_secrets() {
        let url = Url::parse("https://user:pass@cdn.example:8443/blob?X-Amz-Signature=abc#frag").unwrap();
        assert_eq!(RedactedUrl(&url).to_string(), "https://cdn.example:8443/blob");
    }
}
