package main

// The ways in for programs that know only Slack's API: incoming webhooks, and chat.postMessage of the Web API.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// webhook decodes a post to an incoming webhook. The tag is in the path. The body is a payload, or a form with a
// payload in its field payload. https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/
func (s *server) webhook(r *http.Request, body []byte) (message, error) {
	tag := r.PathValue("tag")
	if s.cfg().byTag[tag] == nil { // the log must not show tag: it may be a token in the wrong place
		return message{}, answer{status: http.StatusNotFound, code: "no_service"}
	}
	if isForm(body) {
		body = asObject(asJSON(body))["payload"]
	}
	body = without(body, "token", "channel") // the tag decides the channel
	return s.checked(message{Payload: body, Plain: true, route: route{tag: tag}})
}

// postMessage decodes a call of chat.postMessage, a message for the channel that it names:
// https://docs.slack.dev/reference/methods/chat.postMessage/
func (s *server) postMessage(_ *http.Request, body []byte) (message, error) {
	return s.checked(message{Payload: without(asJSON(body), "token"), Plain: true})
}

// without returns the JSON object in body without the fields keys, or null if body is not an object. keys are in
// lower case; the case of a field does not matter: take accepts a token in Token too, and no token must get into the
// spool.
func without(body []byte, keys ...string) json.RawMessage {
	fields := unwrapped(asObject(body))
	maps.DeleteFunc(fields, func(key string, _ json.RawMessage) bool {
		return slices.Contains(keys, strings.ToLower(key))
	})
	return encode(fields)
}

// asObject returns the fields of the JSON object in body, nil if body is not an object.
func asObject(body []byte) (fields object) {
	json.Unmarshal(body, &fields)
	return fields
}

// authTest decodes auth.test, which asks whether a token is valid
// (https://docs.slack.dev/reference/methods/auth.test/). take has already checked the token. There is no message:
// authTest returns ok as an error, so that take answers it and stops.
func authTest(*http.Request, []byte) (nothing message, _ error) { return nothing, answerTo(nil, 0) }

// checked checks the payload of m and returns m with its route. Without a tag, the route leads to the channel that
// the payload names, or else to the own channel of the webhook in [core]. What Slack would refuse is refused here:
// after the answer ok, the client cannot be told any more.
func (s *server) checked(m message) (_ message, err error) {
	fields := asObject(m.Payload)
	var channel, text, markdown string
	var blocks, attachments []json.RawMessage
	read := func(key string, into any, kind, code string) {
		if value := fields[key]; err == nil && value != nil && json.Unmarshal(value, into) != nil {
			err = badPayload(code, "payload.%s is not %s", key, kind)
		}
	}
	read("channel", &channel, "a string", "invalid_payload")
	read("text", &text, "a string", "invalid_payload")
	read("markdown_text", &markdown, "a string", "invalid_payload")
	read("blocks", &blocks, "an array", "invalid_blocks")
	read("attachments", &attachments, "an array", "invalid_attachments")
	switch {
	case err != nil:
	case fields == nil, !json.Valid(encode(m)): // the spool could not read what is too deep
		err = badPayload("invalid_payload", "payload is missing, or not a JSON object, or too deep")
	case len(channel) > nameLimit || strings.ContainsFunc(channel, isControl):
		err = badPayload("channel_not_found",
			"payload.channel is longer than %d bytes or has a control character in it", nameLimit)
	case strings.TrimSpace(text+markdown) == "" && len(blocks)+len(attachments) == 0:
		err = badPayload("no_text", "payload has neither text nor blocks nor attachments")
	case m.route.tag != "": // the tag has a credential and a channel
	case s.cfg().credential == (credential{}):
		err = badPayload("channel_not_found", "a message for a channel needs slack_url or slack_token in [core]")
	case channel == "" && s.cfg().core.token != (secret{}):
		err = badPayload("channel_not_found", "payload.channel is missing")
	}
	m.route.channel = channel
	return m, err
}

const formFields = 100 // a body with more fields is not taken for a form: each field takes memory

var formStart = regexp.MustCompile(`^[a-z_]+=`)

// isForm reports whether body is a form and not JSON. It looks at the first characters, since the Content-Type is
// often wrong.
func isForm(body []byte) bool {
	return formStart.Match(body) && bytes.Count(body, []byte("&")) < formFields
}

// rawControls are removed from the fields of a form: most of these control characters take six bytes each in JSON.
var rawControls = regexp.MustCompile(`[\x00-\x08\x0b\x0c\x0e-\x1f]`)

// jsonFields are the fields of a form whose values are JSON, as in Slack's API.
var jsonFields = []string{"payload", "blocks", "attachments", "metadata"}

// boolFields are the fields of a form whose values are true or false, as in Slack's API, and our own field sync. All
// other fields are text.
var boolFields = strings.Fields("sync as_user link_names mrkdwn reply_broadcast unfurl_links unfurl_media")

// asJSON converts a form to a JSON object. It returns any other body unchanged.
func asJSON(body []byte) []byte {
	if !isForm(body) {
		return body
	}
	fields := object{}
	for pair := range strings.SplitSeq(string(body), "&") {
		key, value, _ := strings.Cut(pair, "=")
		// After an error the value stays: the client did not encode it, as in curl -d "text=100% full".
		if text, err := url.QueryUnescape(value); err == nil {
			value = text
		}
		value = rawControls.ReplaceAllString(value, "")
		fields[key] = encode(value)
		if flag, err := strconv.ParseBool(value); err == nil && slices.Contains(boolFields, key) {
			fields[key] = encode(flag)
		}
	}
	return encode(unwrapped(fields))
}

// unwrapped replaces each field of o that holds JSON as a text by that JSON: forms have no other way, and Slack takes
// such texts in JSON, too. It returns o. https://github.com/slackapi/python-slack-sdk/issues/1261
func unwrapped(o object) object {
	for _, key := range jsonFields {
		var text string
		if json.Unmarshal(o[key], &text) == nil && json.Valid([]byte(cmp.Or(text, "null"))) {
			o[key] = json.RawMessage(cmp.Or(text, "null"))
		}
	}
	return o
}

// sendAsWebhook writes the answer as Slack's webhooks do, as text: the code or, without a code, the message.
func (a answer) sendAsWebhook(w http.ResponseWriter) {
	switch a.status {
	case http.StatusUnauthorized:
		a.status, a.code = http.StatusForbidden, "invalid_token"
	case http.StatusTooManyRequests: // Alertmanager drops the message after a 429, and tries again after a 503
		a.status = http.StatusServiceUnavailable
	}
	a.write(w, "text/plain", []byte(cmp.Or(a.code, a.Message)))
}

// sendAsAPI writes the answer as Slack's Web API does, as JSON. The status is 200 even for what Slack would refuse.
func (a answer) sendAsAPI(w http.ResponseWriter) {
	reply := struct {
		OK      bool   `json:"ok"`
		Channel string `json:"channel,omitempty"`
		Error   string `json:"error,omitempty"`
	}{Error: strings.Replace(cmp.Or(a.code, a.Message), "invalid_payload", "invalid_arguments", 1)} // the API's code
	switch a.status {
	case http.StatusOK:
		reply.OK, reply.Channel, reply.Error = true, w.(*response).Tag, ""
	case http.StatusBadRequest, http.StatusUnauthorized:
		a.status = http.StatusOK
	case http.StatusTooManyRequests:
		a.status = http.StatusServiceUnavailable
	}
	a.write(w, "application/json", encode(reply))
}

// shownURI returns the URI of r as the log and answers may show it. The path of a webhook can contain a token,
// perhaps even a token of Slack's. So only the first part of /services, /api and unknown paths is shown, and their
// second part if it is a configured tag or follows /api. The rest is replaced by "...".
func (s *server) shownURI(r *http.Request) string {
	parts, shown := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/"), 1
	switch {
	case parts[0] == "api" && !strings.HasPrefix(r.Pattern, "POST /api/"): // the second part may be a token
	case parts[0] == "api", parts[0] == "services" && len(parts) > 1 && s.cfg().byTag[parts[1]] != nil:
		shown = 2
	// A path with /. may lead to /services, as /x/../services does.
	case parts[0] != "services" && r.Pattern != "/" && !strings.Contains(r.URL.Path, "/."):
		return r.RequestURI
	}
	if len(parts) > shown {
		parts = append(parts[:shown], masked)
	}
	return "/" + strings.Join(parts, "/")
}
