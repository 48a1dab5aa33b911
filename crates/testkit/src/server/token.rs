//! Service-account tokens: minted by TokenRequest, bound to what they name, gone when that is gone.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    authn::UserInfo,
    kinds,
    object::{is_of_type, items, meta, rfc3339, text},
    status::ApiError,
    store::Store,
};
use crate::jwt::SigningKey;

pub(crate) fn base64_standard(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Signs and verifies the tokens of service accounts.
pub(crate) struct TokenIssuer {
    pub(crate) issuer: String,
    pub(crate) key: SigningKey,
}

impl TokenIssuer {
    /// `POST …/serviceaccounts/<name>/token`: answers the request with `status.token` filled in. A dry run mints a live token
    /// all the same: so does the API server.
    pub(crate) fn request(
        &self,
        store: &Store,
        namespace: &str,
        name: &str,
        mut request: Value,
    ) -> Result<Value, ApiError> {
        let accounts = kinds::find("", "serviceaccounts").ok_or_else(ApiError::path_not_found)?;
        let account =
            store.get(accounts, namespace, name).ok_or_else(|| ApiError::not_found(accounts, name))?;
        if !is_of_type(&mut request, "authentication.k8s.io/v1", "TokenRequest")
            || !(request["spec"].is_object() || request["spec"].is_null())
        {
            return Err(ApiError::bad_request(
                "the object provided is no authentication.k8s.io/v1 TokenRequest",
            ));
        }
        let seconds = match &request["spec"]["expirationSeconds"] {
            Value::Null => 3600,
            seconds => seconds.as_i64().unwrap_or(0),
        };
        if seconds < 600 {
            let why =
                "spec.expirationSeconds: Invalid value: may not specify a duration less than 10 minutes";
            return Err(ApiError::unprocessable(format!(
                "TokenRequest.authentication.k8s.io \"\" is invalid: {why}"
            )));
        }
        let audiences = match items(&request["spec"]["audiences"]) {
            [] => json!([self.issuer]),
            given => json!(given),
        };
        let mut claims =
            json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": meta(&account, "uid")}});
        let bound = &request["spec"]["boundObjectRef"];
        if !bound.is_null() {
            let object = bound_object(store, namespace, bound)?;
            let slot = text(&bound["kind"]).to_ascii_lowercase();
            claims[slot] = json!({"name": text(&bound["name"]), "uid": object});
        }
        let now = store.now();
        let token = self
            .key
            .sign(&json!({
                "iss": self.issuer, "sub": format!("system:serviceaccount:{namespace}:{name}"), "aud": audiences,
                "iat": now.as_second(), "nbf": now.as_second(), "exp": now.as_second() + seconds,
                "jti": uuid::Uuid::new_v4().to_string(), "kubernetes.io": claims,
            }))
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let expires = jiff::Timestamp::from_second(now.as_second() + seconds).unwrap_or(now);
        request["spec"]["audiences"] = audiences;
        request["spec"]["expirationSeconds"] = json!(seconds);
        request["status"] = json!({"token": token, "expirationTimestamp": rfc3339(expires)});
        request["metadata"] =
            json!({"name": name, "namespace": namespace, "creationTimestamp": rfc3339(now)});
        Ok(request)
    }

    /// Who holds the token, if it is one of ours and everything it is bound to still exists.
    pub(crate) fn authenticate(&self, store: &Store, token: &str) -> Option<UserInfo> {
        let claims = self.key.verify(token)?;
        let now = store.now().as_second();
        let current = claims["exp"].as_i64()? > now && claims["nbf"].as_i64()? <= now;
        let ours = claims["iss"] == self.issuer.as_str()
            && items(&claims["aud"]).iter().any(|aud| *aud == self.issuer.as_str());
        if !current || !ours {
            return None;
        }
        let bound = &claims["kubernetes.io"];
        let namespace = text(&bound["namespace"]);
        for (claim, plural) in [("serviceaccount", "serviceaccounts"), ("secret", "secrets"), ("pod", "pods")]
        {
            let reference = &bound[claim];
            if reference.is_null() && claim != "serviceaccount" {
                continue;
            }
            let object = store.get(kinds::find("", plural)?, namespace, text(&reference["name"]))?;
            if meta(&object, "uid") != text(&reference["uid"]) {
                return None;
            }
        }
        let account = &bound["serviceaccount"];
        let mut user = UserInfo::service_account(namespace, text(&account["name"]), text(&account["uid"]));
        let id = format!("JTI={}", text(&claims["jti"]));
        user.extra.insert("authentication.kubernetes.io/credential-id".into(), vec![id]);
        Some(user)
    }

    /// The issuer's discovery document (<https://kubernetes.io/docs/tasks/configure-pod-container/configure-service-account/#service-account-issuer-discovery>).
    pub(crate) fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer, "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    pub(crate) fn jwks(&self) -> Value {
        json!({"keys": [self.key.jwk]})
    }
}

/// The uid of what a token is to be bound to.
fn bound_object(store: &Store, namespace: &str, bound: &Value) -> Result<String, ApiError> {
    let plural = match text(&bound["kind"]) {
        "Secret" => "secrets",
        "Pod" => "pods",
        other => {
            let message =
                format!("cannot bind token to object of type {other:?}: only Pod and Secret are known here");
            return Err(ApiError::bad_request(message));
        }
    };
    let kind = kinds::find("", plural).ok_or_else(ApiError::path_not_found)?;
    let name = text(&bound["name"]);
    let object = store.get(kind, namespace, name).ok_or_else(|| ApiError::not_found(kind, name))?;
    let uid = meta(&object, "uid");
    if bound["uid"].as_str().is_some_and(|wanted| !wanted.is_empty() && wanted != uid) {
        let why = "the UID in the bound object reference does not match the UID in record";
        return Err(ApiError::conflict(kind, name, why));
    }
    Ok(uid.to_owned())
}
