//! The token service's words.

use portcullis_core::Connection;

use super::*;

const FORM: &str = "application/x-www-form-urlencoded";

fn post(path: &str, content_type: &str, body: &str) -> Request<axum::body::Body> {
    Request::post(path).header("content-type", content_type).body(body.to_owned().into()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_form_that_cannot_be_read_is_an_invalid_request() {
    let world = World::new();
    let exchange = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=ci\
                    &subject_token_type=urn:ietf:params:oauth:token-type:jwt&profile=deploy";
    let check = async |path: &str, content_type: &str, body: &str, status: u16| {
        let (answered, answer) = world.send(post(path, content_type, body)).await;
        assert_eq!(
            (answered.as_u16(), text(&answer, "error")),
            (status, "invalid_request"),
            "{path} {body:.99}"
        );
        assert!(!text(&answer, "error_description").contains("hunter2"), "{answer}");
    };
    for path in ["/token", "/renew", "/revoke", "/introspect"] {
        check(path, FORM, "", 400).await;
        check(path, FORM, "x=y", 400).await;
        check(path, "application/json", r#"{"token":"hunter2"}"#, 400).await;
        check(path, FORM, &"x".repeat(65 * 1024), 413).await;
    }
    check("/token", FORM, &format!("{exchange}&subject_token=hunter2"), 400).await;
    check("/token", FORM, &format!("{exchange}&ttl=hunter2"), 400).await;
    check("/token", FORM, &format!("{exchange}&ttl=-1"), 400).await;
    check("/renew", FORM, "renewal_token=a&renewal_token=hunter2", 400).await;
    check("/revoke", FORM, "token=a&token=hunter2", 400).await;
    check("/introspect", FORM, "token=a&token=hunter2", 400).await;
    assert_eq!(world.events.kinds(), []);
    // Without a value is as good as absent, and what nobody knows is not read.
    let more = format!("{exchange}&ttl=&task=&authorization_details=&resource=a&resource=b");
    let (status, issued) = world.send(post("/token", FORM, &more)).await;
    assert_eq!((status, issued["expires_in"].as_u64()), (StatusCode::OK, Some(900)), "{issued}");
}

async fn introspect(world: &World, token: &str) -> (StatusCode, Value) {
    let mut request = post("/introspect", FORM, &format!("token={token}"));
    request.headers_mut().insert(AUTHORIZATION, "Bearer dana".parse().unwrap());
    world.send(request).await
}

#[tokio::test(start_paused = true)]
async fn introspection_is_for_people_with_a_token_of_their_own() {
    let world = World::new();
    let (_, issued) = world.exchange("ci", &[]).await;
    let token = text(&issued, "access_token");
    assert_eq!(world.form("/introspect", &[("token", token)]).await.0, StatusCode::UNAUTHORIZED);
    let (_, body) = introspect(&world, token).await;
    assert_eq!((body["active"].as_bool(), text(&body, "username")), (Some(true), "ci"));
    assert_eq!(introspect(&world, "nonsense").await.1, json!({ "active": false }));
    // Nobody can tell: that is not the same as no.
    world.store.fail(true);
    tokio::time::advance(Duration::from_secs(6)).await;
    let (status, answer) = introspect(&world, token).await;
    let unavailable = (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable");
    assert_eq!((status, text(&answer, "error")), unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_bound_token_names_its_certificate_as_rfc_8705_does() {
    let world = World::new();
    let (hex, thumbprint) = (
        "03062b30ccac206078fecd1bf44c3adf8e9f1b7eb8c5d4bc76b49b43eaca6eee",
        "AwYrMMysIGB4_s0b9Ew6346fG364xdS8drSbQ-rKbu4",
    );
    let exchange = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=ci\
                    &subject_token_type=urn:ietf:params:oauth:token-type:jwt&profile=bound";
    let connection = |hex: &str| Connection {
        peer: "127.0.0.1:9".parse().unwrap(),
        certificate_sha256: Some(hex.to_owned()),
    };
    let mut request = post("/token", FORM, exchange);
    request.extensions_mut().insert(connection(hex));
    let (status, issued) = world.send(request).await;
    assert_eq!(status, StatusCode::OK, "{issued}");
    let token = text(&issued, "access_token");
    let claims = world.grants.key().verify::<Value>(token).unwrap();
    assert_eq!(claims["cnf"], json!({ "x5t#S256": thumbprint }));
    assert_eq!(introspect(&world, token).await.1["cnf"], claims["cnf"]);

    let layer = JitLayer::new(world.grants.clone());
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::empty())) }));
    let info = RequestInfo {
        is_resource_request: true,
        verb: "get".into(),
        resource: "pods".into(),
        namespace: "shop".into(),
        ..RequestInfo::default()
    };
    for (shown, expected) in [(Some(hex), 200), (Some(thumbprint), 401), (None, 401)] {
        let mut request =
            Request::get("/").header(AUTHORIZATION, format!("Bearer {token}")).body(Body::empty()).unwrap();
        request.extensions_mut().insert(info.clone());
        shown.map(|hex| request.extensions_mut().insert(connection(hex)));
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{shown:?}");
    }
}
