//! The token server of the tests (distribution's docs/content/spec/auth/token.md): it signs what docker-registry
//! verifies, and remembers what it was asked.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::users::basic;

const SERVICE: &str = "registry.docker.test";
const ISSUER: &str = "auth.docker.test";

/// How long a token is good, in seconds; longer than any test.
const LIFE: u64 = 300;

/// Serves `GET /token`; stops when dropped.
pub struct TokenServer {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// Signs tokens.
#[derive(Clone)]
pub struct Minter {
    key: EncodingKey,
    certificate: rcgen::Certificate,
}

/// What a client wanted from the token server.
#[derive(Clone, Debug)]
pub struct Asked {
    pub service: String,
    pub scopes: Vec<String>,
    /// None for an anonymous client.
    pub user: Option<String>,
}

/// A user with a password, and the user's repositories.
#[derive(Clone, Copy, Debug)]
pub struct User {
    pub name: &'static str,
    pub password: &'static str,
    pub repositories: &'static [&'static str],
}

impl User {
    /// As they say who they are to a registry, or to what stands before it.
    pub fn basic(&self) -> String {
        basic(self.name, self.password)
    }
}

/// Which access a client gets: each user does all and every client pulls; or each user has only their own repositories.
enum Rule {
    OpenToPull,
    EachTheirOwn,
}

struct Shared {
    minter: Minter,
    users: Vec<User>,
    rule: Rule,
    asked: Mutex<Vec<Asked>>,
}

impl TokenServer {
    /// Grants `pull` to every client and `push` to the one user.
    pub async fn start(name: &'static str, password: &'static str) -> TokenServer {
        TokenServer::with(vec![User { name, password, repositories: &[] }], Rule::OpenToPull).await
    }

    /// Grants each of these users all access to their own repositories, and nothing else.
    pub async fn of(users: &[User]) -> TokenServer {
        TokenServer::with(users.to_vec(), Rule::EachTheirOwn).await
    }

    async fn with(users: Vec<User>, rule: Rule) -> TokenServer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let shared = Arc::new(Shared { minter: Minter::new(), users, rule, asked: Mutex::default() });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        TokenServer { port, shared, task }
    }

    pub fn realm(&self) -> String {
        format!("http://127.0.0.1:{}/token", self.port)
    }

    pub fn service(&self) -> &'static str {
        SERVICE
    }

    pub fn issuer(&self) -> &'static str {
        ISSUER
    }

    /// What the registry has to trust.
    pub fn certificate(&self) -> String {
        self.shared.minter.certificate.pem()
    }

    pub fn pusher(&self) -> Minter {
        self.shared.minter.clone()
    }

    /// Every question so far, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// Refuses every connection from now on.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for TokenServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Minter {
    fn new() -> Minter {
        let key = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new(vec![ISSUER.to_owned()]).expect("the issuer is a name");
        let certificate = params.self_signed(&key).expect("a certificate can be signed");
        Minter { key: EncodingKey::from_ec_der(key.serialized_der()), certificate }
    }

    /// A token for one repository.
    pub fn mint(&self, repository: &str, actions: &[&str]) -> String {
        self.sign(json!([{ "type": "repository", "name": repository, "actions": actions }]))
    }

    fn sign(&self, access: Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": SERVICE, "sub": "test", "jti": "test", "access": access,
            "iat": now, "nbf": now - 10, "exp": now + LIFE,
        });
        let mut header = Header::new(Algorithm::ES256);
        // The registry takes the key out of this chain once it has verified it against its bundle.
        header.x5c = Some(vec![STANDARD.encode(self.certificate.der())]);
        encode(&header, &claims, &self.key).expect("claims can be signed")
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Connections end with this task, so that a stopped server is really gone.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request| {
                let answer = shared.answer(&request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A client that goes away is no error of the server's.
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
        });
    }
}

impl Shared {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET || request.uri().path() != "/token" {
            return respond(StatusCode::NOT_FOUND, &json!({ "details": "only GET /token" }));
        }
        let user = match request.headers().get(AUTHORIZATION) {
            None => None,
            Some(value) => match self.users.iter().find(|user| *value == user.basic()) {
                Some(user) => Some(user),
                None => return respond(StatusCode::UNAUTHORIZED, &json!({ "details": "wrong user or password" })),
            },
        };
        let query: Vec<(String, String)> =
            url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect();
        let values = |wanted: &str| -> Vec<String> {
            query.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.clone()).collect()
        };
        let (service, scopes) = (values("service").concat(), values("scope"));
        let access: Vec<Value> = scopes.iter().filter_map(|scope| self.granted(scope, user)).collect();
        let user = user.map(|user| user.name.to_owned());
        self.asked.lock().unwrap().push(Asked { service, scopes, user });
        let token = self.minter.sign(access.into());
        respond(StatusCode::OK, &json!({ "token": token, "expires_in": LIFE }))
    }

    /// `repository:team/app:pull,push`, with the actions that this client may have: who asks for more than that gets less,
    /// and no error.
    fn granted(&self, scope: &str, user: Option<&User>) -> Option<Value> {
        let (kind, rest) = scope.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        let may = |action: &str| match self.rule {
            Rule::OpenToPull => user.is_some() || action == "pull",
            Rule::EachTheirOwn => kind == "repository" && user.is_some_and(|user| user.repositories.contains(&name)),
        };
        let actions: Vec<&str> = actions.split(',').filter(|action| may(action)).collect();
        Some(json!({ "type": kind, "name": name, "actions": actions }))
    }
}

fn respond(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    response
}
