//! The requests of a user who wants content of another user.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Case;
use crate::private::{ANN, BOB};
use forebay_test_support::users::basic;

pub struct Try {
    pub method: &'static str,
    pub target: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Try {
    fn new(method: &'static str, target: &str, headers: &[(&'static str, &str)]) -> Try {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Try { method, target: target.to_owned(), headers, body: Vec::new() }
    }
}

impl Case {
    /// Some hundreds.
    pub fn tries(&self) -> Vec<Try> {
        let hers = &self.hers;
        let (layer, config, manifest) = (&hers.layers[0].digest, &hers.config.digest, &hers.manifest.blob.digest);
        let large = &self.large.digest;
        let plain = [
            "/v2/ann/app/manifests/secret-tag".to_owned(),
            format!("/v2/ann/app/manifests/{manifest}"),
            format!("/v2/ann/app/blobs/{layer}"),
            format!("/v2/ann/app/blobs/{large}"),
            // Under his own name.
            format!("/v2/bob/app/manifests/{manifest}"),
            format!("/v2/bob/app/blobs/{layer}"),
            format!("/v2/bob/app/blobs/{large}"),
        ];
        let odd = [
            format!("/v2/ann/app/blobs/{config}"),
            format!("/v2/bob/app/blobs/{config}"),
            // As what it is not.
            format!("/v2/bob/app/blobs/{manifest}"),
            format!("/v2/bob/app/manifests/{config}"),
            format!("/v2/bob/app/manifests/{layer}"),
            // At an upstream that is open to all: by the path, by the query, and by both.
            format!("/v2/hub.test/team/open/manifests/{manifest}"),
            format!("/v2/hub.test/team/open/blobs/{layer}"),
            format!("/v2/hub.test/team/open/blobs/{config}"),
            format!("/v2/hub.test/team/open/blobs/{large}"),
            format!("/v2/hub.test/ann/app/blobs/{layer}"),
            format!("/v2/team/open/blobs/{layer}?ns=hub.test"),
            format!("/v2/ann/app/manifests/{manifest}?ns=hub.test"),
            format!("/v2/private.example/ann/app/blobs/{layer}"),
            format!("/v2/private.example/ann/app/blobs/{layer}?ns=private.example"),
            format!("/v2/ann/app/blobs/{layer}?ns=private.example"),
            // Where a path is read twice.
            format!("/v2/bob/app/../../ann/app/blobs/{layer}"),
            format!("/v2/bob%2Fapp%2F..%2F..%2Fann/app/blobs/{layer}"),
            format!("/v2/ann%2Fapp/blobs/{layer}"),
            format!("/v2//ann/app/blobs/{layer}"),
            format!("/v2/ANN/app/blobs/{layer}"),
            format!("/v2/ann/app/manifests/{}", self.signature.tag),
            format!("/v2/bob/app/manifests/{}", self.signature.tag),
            // Lists.
            "/v2/ann/app/tags/list".to_owned(),
            "/v2/ann/app/tags/list?n=1&last=".to_owned(),
            format!("/v2/ann/app/referrers/{manifest}"),
            format!("/v2/bob/app/referrers/{manifest}"),
            "/v2/_catalog".to_owned(),
            // An upload of hers, and the same under his name.
            self.upload.clone(),
            self.upload.replace("/ann/app/", "/bob/app/"),
        ];
        let bob = BOB.basic();
        let media = hers.manifest.media_type;
        let mut tries = Vec::new();
        // No credentials; his own; her name with his password, none, and another; his own with what is no password.
        let names = [
            None,
            Some(bob.clone()),
            Some(basic("ann", BOB.password)),
            Some(basic("ann", "")),
            Some(basic("ANN", ANN.password)),
            Some(format!("Basic {}", STANDARD.encode("ann"))),
            Some(format!("Bearer {}", self.world.tokens.pusher().mint("bob/app", &["pull"]))),
        ];
        let everybody = plain.iter().flat_map(|target| names.iter().map(move |name| (target, name)));
        let some = odd.iter().flat_map(|target| names[..2].iter().map(move |name| (target, name)));
        for (target, name) in everybody.chain(some) {
            for method in ["GET", "HEAD"] {
                let mut headers = vec![("accept", media)];
                headers.extend(name.as_deref().map(|name| ("authorization", name)));
                tries.push(Try::new(method, target, &headers));
            }
        }
        for target in &plain {
            // What a cache answers without a body, or in part; and what comes before another header of the name.
            let quoted = format!("\"{layer}\"");
            for (header, value) in [
                ("range", "bytes=0-9"),
                ("range", "bytes=-9"),
                ("range", "bytes=99999999-"),
                ("if-none-match", "*"),
                ("if-none-match", &quoted),
                ("if-range", &quoted),
                ("x-forwarded-user", "ann"),
                ("authorization", &ANN.basic().replace("Basic ", "Basic, ")),
                ("host", "private.example"),
            ] {
                tries.push(Try::new("GET", target, &[("authorization", &bob), (header, value)]));
            }
        }
        let uploads = "/v2/bob/app/blobs/uploads/";
        for digest in [layer, config, manifest, large] {
            for from in ["&from=ann/app", "&from=private.example/ann/app", "&from=bob/app", ""] {
                let target = format!("{uploads}?mount={digest}{from}");
                tries.push(Try::new("POST", &target, &[("authorization", &bob)]));
            }
            let target = format!("/v2/hub.test/team/open/blobs/uploads/?mount={digest}&from=ann/app");
            tries.push(Try::new("POST", &target, &[]));
        }
        for (method, target) in [
            ("PUT", format!("{}&digest={layer}", self.upload)),
            ("PATCH", self.upload.clone()),
            ("DELETE", self.upload.clone()),
            ("DELETE", format!("/v2/ann/app/manifests/{manifest}")),
            ("DELETE", format!("/v2/ann/app/blobs/{layer}")),
            ("POST", "/v2/ann/app/blobs/uploads/".to_owned()),
        ] {
            tries.push(Try::new(method, &target, &[("authorization", &bob)]));
        }
        // Her manifest as his own would make her layers his.
        for target in ["/v2/bob/app/manifests/stolen", "/v2/ann/app/manifests/secret-tag"] {
            let put = Try::new("PUT", target, &[("authorization", &bob), ("content-type", media)]);
            tries.push(Try { body: hers.manifest.blob.bytes.to_vec(), ..put });
        }
        tries
    }
}
