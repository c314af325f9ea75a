package main

// The ways in for programs that know Slack only: its incoming webhooks, and what of its Web API posts messages.

import (
	"bytes"
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
)

// webhook decodes what is posted to an incoming webhook, for the tag in the path: a payload, alone or as the field
// payload of a form. https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks/
func (s *server) webhook(r *http.Request, body []byte) (sub submission, err error) {
	sub.routes = s.cfg().routes(r.PathValue("tag"))
	if sub.routes == nil { // nor is it noted for the log: it may be a token in the wrong place
		return sub, answer{status: http.StatusNotFound, code: "no_service"}
	}
	sub.to = r.PathValue("tag")
	fields, err := payloadFields(body)
	if isForm(body) {
		fields, err = payloadFields(fields["payload"])
	}
	if err != nil {
		return sub, err
	}
	delete(fields, "channel") // the tag has one
	delete(fields, "token")
	sub.Payload, sub.Plain = encode(fields), true
	_, err = checkPayload(fields)
	return sub, err
}

// postMessage decodes a message for a channel: https://docs.slack.dev/reference/methods/chat.postMessage/
func (s *server) postMessage(_ *http.Request, body []byte) (sub submission, err error) {
	fields, err := payloadFields(body)
	if err != nil {
		return sub, err
	}
	delete(fields, "token") // it must not lie in the spool
	sub.Payload, sub.Plain = encode(fields), true
	sub.to, err = s.checkDirect(fields)
	sub.routes = []route{{channel: sub.to}}
	return sub, err
}

// authTest is the question whether a token will do: https://docs.slack.dev/reference/methods/auth.test/
func authTest(*http.Request, []byte) (nothing submission, _ error) { return nothing, nil }

// unknownMethod answers all else of the Web API.
func unknownMethod(w http.ResponseWriter, _ *http.Request) {
	badPayload("unknown_method", "").sendAsAPI(w)
}

func payloadFields(body []byte) (fields map[string]json.RawMessage, err error) {
	if json.Unmarshal(asJSON(body), &fields) != nil || fields == nil {
		return nil, badPayload("invalid_payload", "payload is missing, or not a JSON object")
	}
	return fields, nil
}

// checkDirect returns the channel that a payload goes straight to, "" for the webhook's own.
func (s *server) checkDirect(fields map[string]json.RawMessage) (channel string, err error) {
	channel, err = checkPayload(fields)
	switch {
	case err != nil:
	case s.cfg().credential == (credential{}):
		err = badPayload("channel_not_found", "/notify-directly needs slack_url or slack_token in [core]")
	case channel == "" && s.cfg().core.token != (secret{}):
		err = badPayload("channel_not_found", "payload.channel is missing")
	}
	return channel, err
}

// checkPayload returns the channel that a payload names. What Slack would never take is refused here, while its sender
// listens.
func checkPayload(fields map[string]json.RawMessage) (channel string, err error) {
	var text, markdown string
	for key, into := range map[string]*string{"channel": &channel, "text": &text, "markdown_text": &markdown} {
		if value := fields[key]; value != nil && json.Unmarshal(value, into) != nil {
			return channel, badPayload("invalid_payload", "payload.%s is not a string", key)
		}
	}
	says := strings.TrimSpace(text+markdown) != ""
	for _, key := range []string{"blocks", "attachments"} {
		value := bytes.TrimPrefix(fields[key], []byte("null"))
		if len(value) > 0 && value[0] != '[' {
			return channel, badPayload("invalid_"+key, "payload.%s is not an array", key)
		}
		says = says || len(bytes.Trim(value, "[] \t\r\n")) > 0
	}
	switch {
	case len(channel) > nameLimit || strings.ContainsFunc(channel, endsLine):
		return channel, badPayload("channel_not_found",
			"payload.channel is longer than %d bytes or has a control character in it", nameLimit)
	case !says:
		return channel, badPayload("no_text", "payload has neither text nor blocks nor attachments")
	}
	return channel, nil
}

const formFields = 100 // at most: what has more, for the memory that they take, is no form

// isForm tells a form from JSON. The Content-Type does not: curl -d and fluentd send JSON as a form.
func isForm(body []byte) bool {
	key, _, found := bytes.Cut(body, []byte("="))
	isName := len(key) > 0 && len(bytes.Trim(key, "abcdefghijklmnopqrstuvwxyz_")) == 0
	return found && isName && bytes.Count(body, []byte("&")) < formFields
}

// asJSON returns the JSON object that a form stands for, and JSON as it is. Fields that are objects, lists or true and
// false to Slack are so here; all others are text, without the control characters that would take six bytes each.
func asJSON(body []byte) []byte {
	if !isForm(body) {
		return body
	}
	fields := map[string]json.RawMessage{}
	for pair := range strings.SplitSeq(string(body), "&") {
		key, value, _ := strings.Cut(pair, "=")
		if text, err := url.QueryUnescape(value); err == nil { // else it is as it was typed: curl -d "text=100% full"
			value = strings.ToValidUTF8(text, "\ufffd")
		}
		value = strings.Map(func(c rune) rune {
			if c < ' ' && c != '\n' && c != '\r' && c != '\t' {
				return -1
			}
			return c
		}, value)
		fields[key] = encode(value)
		switch flag, err := strconv.ParseBool(value); key {
		case "payload", "blocks", "attachments", "metadata":
			if json.Valid([]byte(value)) {
				fields[key] = json.RawMessage(value)
			}
		case "sync", "as_user", "link_names", "mrkdwn", "reply_broadcast", "unfurl_links", "unfurl_media":
			if err == nil {
				fields[key] = encode(flag)
			}
		}
	}
	return encode(fields)
}

// sendAsWebhook answers in a word, as text.
func (a answer) sendAsWebhook(w http.ResponseWriter) {
	switch a.status {
	case http.StatusUnauthorized:
		a.status, a.code = http.StatusForbidden, "invalid_token"
	case http.StatusTooManyRequests: // there Alertmanager gives a message up, at 503 it tries again
		a.status = http.StatusServiceUnavailable
	}
	a.write(w, "text/plain", []byte(cmp.Or(a.code, a.Message)))
}

// sendAsAPI answers as JSON, with status 200 to what Slack would refuse as well.
func (a answer) sendAsAPI(w http.ResponseWriter) {
	reply := struct {
		OK      bool   `json:"ok"`
		Channel string `json:"channel,omitempty"`
		Error   string `json:"error,omitempty"`
	}{Error: cmp.Or(a.code, a.Message)}
	switch a.status {
	case http.StatusOK:
		reply.OK, reply.Channel, reply.Error = true, w.(*response).line.Tag, ""
	case http.StatusBadRequest, http.StatusUnauthorized:
		a.status = http.StatusOK
	case http.StatusTooManyRequests:
		a.status = http.StatusServiceUnavailable
	}
	if a.code == "invalid_payload" { // a webhook's word
		reply.Error = "invalid_arguments"
	}
	a.write(w, "application/json", encode(reply))
}

// shownURI returns what may be seen of the URI of r. Programs that know Slack only have their token in it, or even one
// of Slack's: of such a path its first part is shown, and which tag or method it names.
func (s *server) shownURI(r *http.Request) string {
	shown, rest, more := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	name, _, behind := strings.Cut(rest, "/")
	switch {
	case shown == "api", shown == "services" && s.cfg().byTag[name] != nil:
		shown, more = shown+"/"+name, behind
	case shown != "services" && r.Pattern != "/":
		return r.RequestURI
	}
	if more {
		shown += "/" + masked
	}
	return "/" + shown
}
