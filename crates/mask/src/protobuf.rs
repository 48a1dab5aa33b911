//! Answers in Kubernetes' protobuf, for clients that accept nothing else: masked by the same rules as their JSON.
//!
//! An object in protobuf has its length in front, so it is read whole, within [`Limits::protobuf_bytes`](crate::Limits). Each
//! object, or item of a list, is shown to a [`Masker`] as the JSON it stands for, and written anew where that has been
//! changed: one value has one token in both encodings. What is of a kind or has a field that is not known is not passed on.

use bytes::{Bytes, BytesMut};
use portcullis_wire::{
    LengthDelimitedDecoder, LengthDelimitedLimits, ProtobufReader, ProtobufValue, RewriteError,
    encode_length_delimited, encode_protobuf_field, rewrite_protobuf_object,
};

use crate::{MaskError, MaskErrorKind, Masker, Piece, Scope, piece::join};

/// Masks one body.
pub(crate) struct ProtobufMask {
    scope: Scope,
    input: Input,
    counts: Vec<(String, u64)>,
    /// How many bytes have come before what is read now.
    before: u64,
}

enum Input {
    /// One object, whole at the end.
    Object(BytesMut),
    /// The events of a watch, each with its length in front.
    Events(LengthDelimitedDecoder),
}

impl ProtobufMask {
    /// For one object.
    pub(crate) fn object(scope: Scope) -> Self {
        Self::new(scope, Input::Object(BytesMut::new()))
    }

    /// For the events of a watch.
    pub(crate) fn events(scope: Scope) -> Self {
        // Larger ones come in parts, which is as good as too large.
        let whole_frame = scope.limits().protobuf_bytes;
        let limits = LengthDelimitedLimits { max_frame: whole_frame, whole_frame };
        Self::new(scope, Input::Events(LengthDelimitedDecoder::new(limits)))
    }

    fn new(scope: Scope, input: Input) -> Self {
        Self { scope, input, counts: Vec::new(), before: 0 }
    }

    /// Takes a chunk, and appends what can be handed on: events that are whole.
    pub(crate) fn push(&mut self, chunk: Bytes, out: &mut Vec<Piece>) -> Result<(), MaskError> {
        let length = chunk.len();
        match &mut self.input {
            Input::Object(body) => {
                if body.len() + length > self.scope.limits().protobuf_bytes {
                    return Err(MaskError::new(MaskErrorKind::TooMuchHeld, body.len() as u64));
                }
                body.extend_from_slice(&chunk);
                return Ok(());
            }
            Input::Events(frames) => frames.push(chunk),
        }
        while let Some(event) = self.next_event()? {
            out.push(event);
        }
        self.before += length as u64;
        Ok(())
    }

    /// The body has ended.
    pub(crate) fn finish(&mut self, out: &mut Vec<Piece>) -> Result<(), MaskError> {
        let body = match &mut self.input {
            Input::Events(frames) => {
                return frames.finish().map_err(|_| MaskError::new(MaskErrorKind::Truncated, self.before));
            }
            Input::Object(body) => std::mem::take(body).freeze(),
        };
        // An answer without any content has nothing to hide.
        if !body.is_empty() {
            let masked = self.mask(&body)?;
            out.push(if masked == body { Piece::Verbatim(body) } else { Piece::Replacement(masked) });
        }
        Ok(())
    }

    /// How many values each rule replaced since this was last asked.
    pub(crate) fn take_counts(&mut self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.counts)
    }

    fn next_event(&mut self) -> Result<Option<Piece>, MaskError> {
        let malformed = MaskError::new(MaskErrorKind::MalformedProtobuf, self.before);
        let Input::Events(frames) = &mut self.input else { return Ok(None) };
        let frame =
            frames.next_part().map_err(|_| MaskError::new(MaskErrorKind::TooMuchHeld, self.before))?;
        let Some(frame) = frame else { return Ok(None) };
        // `meta/v1.WatchEvent`: what happened, and a RawExtension around the object's own envelope.
        let mut event = BytesMut::with_capacity(frame.payload.len());
        for field in ProtobufReader::new(&frame.payload) {
            let field = field.map_err(|_| malformed.clone())?;
            match (field.number, field.value) {
                (1, ProtobufValue::Bytes(_)) => event.extend_from_slice(field.original),
                (2, ProtobufValue::Bytes(object)) => {
                    let object = frame.payload.slice_ref(object);
                    let mut extension = BytesMut::with_capacity(object.len());
                    for field in ProtobufReader::new(&object) {
                        let field = field.map_err(|_| malformed.clone())?;
                        let (1, ProtobufValue::Bytes(raw)) = (field.number, field.value) else {
                            return Err(malformed);
                        };
                        let masked = self.mask(&object.slice_ref(raw))?;
                        encode_protobuf_field(1, ProtobufValue::Bytes(&masked), &mut extension);
                    }
                    encode_protobuf_field(2, ProtobufValue::Bytes(&extension), &mut event);
                }
                _ => return Err(malformed),
            }
        }
        if event == frame.payload {
            return Ok(Some(Piece::Verbatim(frame.original)));
        }
        let mut out = BytesMut::with_capacity(event.len() + 4);
        encode_length_delimited(&event, &mut out).map_err(|_| malformed)?;
        Ok(Some(Piece::Replacement(out.freeze())))
    }

    /// Masks an object with its envelope.
    fn mask(&mut self, body: &Bytes) -> Result<Bytes, MaskError> {
        let (scope, counts) = (&self.scope, &mut self.counts);
        let rewritten = rewrite_protobuf_object(body, &mut |object| {
            let mut masker = Masker::new(scope.clone());
            let mut pieces = Vec::new();
            masker.push(Bytes::from(object.to_string()), &mut pieces)?;
            masker.finish(&mut pieces)?;
            let masked = masker.take_counts();
            if masked.is_empty() {
                return Ok(None);
            }
            for (rule, count) in masked {
                match counts.iter_mut().find(|(known, _)| *known == rule) {
                    Some((_, so_far)) => *so_far += count,
                    None => counts.push((rule, count)),
                }
            }
            let changed = serde_json::from_slice(&join(&pieces));
            changed.map(Some).map_err(|_| MaskError::new(MaskErrorKind::MalformedProtobuf, 0))
        });
        rewritten.map_err(|error| match error {
            RewriteError::Judge(error) => error,
            RewriteError::NotWhole => MaskError::new(MaskErrorKind::UnknownProtobuf, self.before),
            RewriteError::Object(portcullis_wire::ProtobufObjectError::UnknownKind { .. }) => {
                MaskError::new(MaskErrorKind::UnknownProtobuf, self.before)
            }
            _ => MaskError::new(MaskErrorKind::MalformedProtobuf, self.before),
        })
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use portcullis_core::RequestInfo;
    use portcullis_wire::{ProtobufEnvelope, ProtobufObject};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::{Caller, MaskConfig, MaskKey, Rules};

    fn scope(resource: &str, yaml: &str) -> Scope {
        let config: MaskConfig = serde_yaml::from_str(yaml).unwrap();
        let info = RequestInfo {
            is_resource_request: true,
            verb: "get".into(),
            api_version: "v1".into(),
            resource: resource.into(),
            namespace: "shop".into(),
            ..RequestInfo::default()
        };
        let key = MaskKey::from_bytes(&[7; 32]).unwrap();
        Rules::new(&config, key).unwrap().scope(&info, Caller::default())
    }

    fn fields(list: &[(u32, &[u8])]) -> Vec<u8> {
        let mut out = BytesMut::new();
        for (number, bytes) in list {
            encode_protobuf_field(*number, ProtobufValue::Bytes(bytes), &mut out);
        }
        out.to_vec()
    }

    fn body(api_version: &str, kind: &str, raw: Vec<u8>) -> Bytes {
        let (api_version, kind) = (api_version.into(), kind.into());
        ProtobufEnvelope { api_version, kind, raw: raw.into(), ..ProtobufEnvelope::default() }.encode()
    }

    fn secret(uid: &str, value: &[u8]) -> Vec<u8> {
        let metadata = fields(&[(1, b"db"), (3, b"shop"), (5, uid.as_bytes())]);
        fields(&[(1, &metadata), (2, &fields(&[(1, b"password"), (2, value)])), (3, b"Opaque")])
    }

    fn mask(scope: &Scope, body: &Bytes) -> Result<Bytes, MaskErrorKind> {
        let mut engine = ProtobufMask::object(scope.clone());
        let mut pieces = Vec::new();
        for chunk in body.chunks(7) {
            engine.push(Bytes::copy_from_slice(chunk), &mut pieces).map_err(|error| error.kind())?;
        }
        engine.finish(&mut pieces).map_err(|error| error.kind())?;
        Ok(join(&pieces).into())
    }

    fn read(body: &Bytes) -> Value {
        ProtobufObject::read(body).unwrap().value
    }

    /// What the JSON masker makes of the same object.
    fn as_json(scope: &Scope, object: &Value) -> Value {
        let mut masker = Masker::new(scope.clone());
        let mut pieces = Vec::new();
        masker.push(Bytes::from(object.to_string()), &mut pieces).unwrap();
        masker.finish(&mut pieces).unwrap();
        serde_json::from_slice(&join(&pieces)).unwrap()
    }

    #[test]
    fn a_value_has_one_token_in_both_encodings() {
        let secrets = scope("secrets", "{}");
        let came = body("v1", "Secret", secret("1", b"hunter2"));
        let masked = mask(&secrets, &came).unwrap();
        assert_eq!(read(&masked), as_json(&secrets, &read(&came)));
        let token = STANDARD.decode(read(&masked)["data"]["password"].as_str().unwrap()).unwrap();
        assert!(token.starts_with(b"masked:secrets:"), "{token:?}");
        assert_eq!(read(&masked)["type"], "Opaque");

        let list = fields(&[
            (1, &fields(&[(2, b"4711")])),
            (2, &secret("1", b"hunter2")),
            (2, &secret("2", b"hunter2")),
            (2, b""),
        ]);
        let came = body("v1", "SecretList", list);
        let masked = mask(&secrets, &came).unwrap();
        assert_eq!(read(&masked), as_json(&secrets, &read(&came)));
        assert_eq!(read(&masked)["metadata"]["resourceVersion"], "4711");
        let token = |at: usize| read(&masked)["items"][at]["data"]["password"].clone();
        assert_ne!(token(0), token(1), "bound to their objects");
    }

    #[test]
    fn deeper_values_and_other_types_keep_their_form() {
        let env = |name: &str| fields(&[(1, name.as_bytes()), (2, b"hunter2")]);
        let container =
            fields(&[(1, b"app"), (7, &env("TOKEN")), (7, &env("LEVEL")), (7, &env("DB_PASSWORD"))]);
        let pod = fields(&[(1, b""), (2, &fields(&[(2, &container)]))]);
        let came = body("v1", "Pod", pod);
        let pods = scope("pods", "{}");
        let masked = mask(&pods, &came).unwrap();
        assert_eq!(read(&masked), as_json(&pods, &read(&came)));
        assert_eq!(read(&masked)["spec"]["containers"][0]["env"][1]["value"], "hunter2");

        // What its field cannot hold is left out; numbers become zero, which protobuf does not show.
        let everything =
            "{packs: [], rules: [{name: r, resources: [pods], paths: [spec, metadata.creationTimestamp]}]}";
        let masked = read(&mask(&scope("pods", everything), &came).unwrap());
        assert!(!masked.to_string().contains("hunter2") && !masked.to_string().contains("app"), "{masked}");
        let drop = "{packs: [], rules: [{name: r, resources: [pods], paths: ['spec.**.env[*].value'], action: drop}]}";
        let masked = read(&mask(&scope("pods", drop), &came).unwrap());
        assert_eq!(masked["spec"]["containers"][0]["env"][0], json!({"name": "TOKEN"}));
    }

    #[test]
    fn what_is_not_masked_is_not_touched() {
        let map = fields(&[(1, &fields(&[(1, b"c")])), (2, &fields(&[(1, b"k"), (2, b"v")]))]);
        let came = body("v1", "ConfigMap", map);
        assert_eq!(mask(&scope("configmaps", "{}"), &came).unwrap(), came);
    }

    #[test]
    fn what_is_not_known_is_not_passed_on() {
        let secrets = scope("secrets", "{limits: {protobufBytes: 1000}}");
        let fail = |body: Bytes| mask(&secrets, &body).unwrap_err();
        assert_eq!(
            fail(body("metrics.k8s.io/v1beta1", "PodMetrics", vec![])),
            MaskErrorKind::UnknownProtobuf
        );
        let later = [secret("1", b"x"), fields(&[(999, b"new")])].concat();
        assert_eq!(fail(body("v1", "Secret", later)), MaskErrorKind::UnknownProtobuf);
        // Decoders differ on which of two counts.
        let twice = [secret("1", b"x"), fields(&[(1, &fields(&[(1, b"other")]))])].concat();
        assert_eq!(fail(body("v1", "Secret", twice)), MaskErrorKind::UnknownProtobuf);
        assert_eq!(fail(Bytes::from_static(b"{}")), MaskErrorKind::MalformedProtobuf);
        assert_eq!(fail(body("v1", "Secret", secret("1", &[7; 2000]))), MaskErrorKind::TooMuchHeld);
    }

    #[test]
    fn events_are_masked_as_they_come() {
        let secrets = scope("secrets", "{}");
        let event = |kind: &[u8], object: &Bytes| {
            let mut framed = BytesMut::new();
            let event = fields(&[(1, kind), (2, &fields(&[(1, object)]))]);
            encode_length_delimited(&event, &mut framed).unwrap();
            framed.freeze()
        };
        let added = body("v1", "Secret", secret("1", b"hunter2"));
        let stream = [event(b"ADDED", &added), event(b"BOOKMARK", &body("v1", "Secret", vec![]))].concat();
        let mut engine = ProtobufMask::events(secrets.clone());
        let mut out = Vec::new();
        for chunk in stream.chunks(11) {
            engine.push(Bytes::copy_from_slice(chunk), &mut out).unwrap();
        }
        engine.finish(&mut out).unwrap();
        assert_eq!(out.len(), 2);
        let masked = mask(&secrets, &added).unwrap();
        assert_eq!(*out[0].bytes(), event(b"ADDED", &masked));
        assert_eq!(*out[1].bytes(), event(b"BOOKMARK", &body("v1", "Secret", vec![])));
        assert_eq!(engine.take_counts(), [("secrets".to_owned(), 1)]);
        engine.push(Bytes::from_static(&[0, 0, 0, 9, 1]), &mut out).unwrap();
        assert!(engine.finish(&mut out).is_err());
    }

    proptest! {
        /// However a Secret is laid out, its values are gone, or nothing is passed on.
        #[test]
        fn nothing_leaks(values in prop::collection::vec("hunter[0-9]{3}", 0..4), noise in prop::collection::vec(any::<u8>(), 0..24)) {
            let mut raw = secret("1", b"x");
            for value in &values {
                raw.extend(fields(&[(2, &fields(&[(1, b"k"), (2, value.as_bytes())])), (4, &fields(&[(1, b"s"), (2, value.as_bytes())]))]));
            }
            raw.extend(noise);
            if let Ok(masked) = mask(&scope("secrets", "{}"), &body("v1", "Secret", raw)) {
                for value in &values {
                    prop_assert!(memchr::memmem::find(&masked, value.as_bytes()).is_none());
                }
            }
        }
    }
}
