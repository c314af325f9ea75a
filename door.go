package main

// The ways in for programs that know Slack only: incoming webhooks, and chat.postMessage of the Web API.

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

// webhook decodes what is posted to an incoming webhook, for the tag in the path: a payload, alone or as the field
// payload of a form. https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/
func (s *server) webhook(r *http.Request, body []byte) (message, error) {
	tag := r.PathValue("tag")
	if s.cfg().byTag[tag] == nil { // the log must not show it: it may be a token in the wrong place
		return message{}, answer{status: http.StatusNotFound, code: "no_service"}
	}
	if isForm(body) {
		body = asObject(asJSON(body))["payload"]
	}
	body = without(body, "token", "channel") // the tag has a channel
	return s.checked(message{Payload: body, Plain: true, route: route{tag: tag}})
}

// postMessage decodes a message for a channel: https://docs.slack.dev/reference/methods/chat.postMessage/
func (s *server) postMessage(_ *http.Request, body []byte) (message, error) {
	return s.checked(message{Payload: without(asJSON(body), "token"), Plain: true})
}

// without returns a JSON object without some of its keys, null if it is not an object. A token must not get into the
// spool, in upper or lower case: take finds Token, too.
func without(body []byte, keys ...string) json.RawMessage {
	fields := asObject(body)
	maps.DeleteFunc(fields, func(key string, _ json.RawMessage) bool {
		return slices.Contains(keys, strings.ToLower(key))
	})
	return encode(fields)
}

// asObject returns the fields of a JSON object, nil if body is not one.
func asObject(body []byte) (fields object) {
	json.Unmarshal(body, &fields)
	return fields
}

// authTest is the question whether a token will do: https://docs.slack.dev/reference/methods/auth.test/ There is no
// message: it ends with an answer, as after an error.
func authTest(*http.Request, []byte) (nothing message, _ error) { return nothing, answerTo(nil, 0) }

// checked returns m with its route, if it has no tag: to the channel that its payload names, else to the webhook's own.
// It refuses what Slack would refuse: only now can the sender be told.
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
	case fields == nil:
		err = badPayload("invalid_payload", "payload is missing, or not a JSON object")
	case len(channel) > nameLimit || strings.ContainsFunc(channel, endsLine):
		err = badPayload("channel_not_found",
			"payload.channel is longer than %d bytes or has a control character in it", nameLimit)
	case strings.TrimSpace(text+markdown) == "" && len(blocks)+len(attachments) == 0:
		err = badPayload("no_text", "payload has neither text nor blocks nor attachments")
	case m.route.tag != "": // that has a credential and a channel
	case s.cfg().credential == (credential{}):
		err = badPayload("channel_not_found", "/notify-directly needs slack_url or slack_token in [core]")
	case channel == "" && s.cfg().core.token != (secret{}):
		err = badPayload("channel_not_found", "payload.channel is missing")
	}
	m.route.channel = channel
	return m, err
}

const formFields = 100 // at most: each takes memory

var formStart = regexp.MustCompile(`^[a-z_]+=`)

// isForm tells a form from JSON by its first characters: the Content-Type is often wrong.
func isForm(body []byte) bool {
	return formStart.Match(body) && bytes.Count(body, []byte("&")) < formFields
}

// rawControls are the characters of a form that would take six bytes each in JSON.
var rawControls = regexp.MustCompile(`[\x00-\x08\x0b\x0c\x0e-\x1f]`)

// In a form, Slack takes these fields for JSON.
var jsonFields = []string{"payload", "blocks", "attachments", "metadata"}

// In a form, Slack takes these fields for true or false. All others are text.
var boolFields = strings.Fields("sync as_user link_names mrkdwn reply_broadcast unfurl_links unfurl_media")

// asJSON returns the JSON object that a form stands for, and JSON as it is.
func asJSON(body []byte) []byte {
	if !isForm(body) {
		return body
	}
	fields := map[string]any{}
	for pair := range strings.SplitSeq(string(body), "&") {
		key, value, _ := strings.Cut(pair, "=")
		if text, err := url.QueryUnescape(value); err == nil { // an error: not encoded, as in curl -d "text=100% full"
			value = strings.ToValidUTF8(text, "\ufffd")
		}
		value = rawControls.ReplaceAllString(value, "")
		fields[key] = value
		if flag, err := strconv.ParseBool(value); err == nil && slices.Contains(boolFields, key) {
			fields[key] = flag
		}
		if json.Valid([]byte(value)) && slices.Contains(jsonFields, key) {
			fields[key] = json.RawMessage(value)
		}
	}
	return encode(fields)
}

// sendAsWebhook answers with one word, as text.
func (a answer) sendAsWebhook(w http.ResponseWriter) {
	switch a.status {
	case http.StatusUnauthorized:
		a.status, a.code = http.StatusForbidden, "invalid_token"
	case http.StatusTooManyRequests: // after a 429 Alertmanager drops the message, after a 503 it tries again
		a.status = http.StatusServiceUnavailable
	}
	a.write(w, "text/plain", []byte(cmp.Or(a.code, a.Message)))
}

// sendAsAPI answers with JSON, and with status 200 to what Slack would refuse, too.
func (a answer) sendAsAPI(w http.ResponseWriter) {
	reply := struct {
		OK      bool   `json:"ok"`
		Channel string `json:"channel,omitempty"`
		Error   string `json:"error,omitempty"`
	}{Error: strings.Replace(cmp.Or(a.code, a.Message), "invalid_payload", "invalid_arguments", 1)} // the API's word
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

// shownURI returns what the log may show of the URI of r. The path of a webhook has a token in it, perhaps even one of
// Slack's. Of /services, /api and unknown paths, only the first part is shown, and the tag or the method.
func (s *server) shownURI(r *http.Request) string {
	parts, shown := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/"), 1
	switch {
	case parts[0] == "api", parts[0] == "services" && len(parts) > 1 && s.cfg().byTag[parts[1]] != nil:
		shown = 2
	case parts[0] != "services" && r.Pattern != "/" && !strings.Contains(r.URL.Path, "/."): // in /x/../services
		return r.RequestURI
	}
	if len(parts) > shown {
		parts = append(parts[:shown], masked)
	}
	return "/" + strings.Join(parts, "/")
}
