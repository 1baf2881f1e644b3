/* A strict reader of one record, written apart from the writer: a flat object of strings and plain numbers in one
 * line of valid UTF-8 with nothing in it that a terminal would obey. Shared by the unit tests and the fuzz target. */
#ifndef UNIT_AUDIT_JSON_LINE_H
#define UNIT_AUDIT_JSON_LINE_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { JSON_MEMBERS_MAX = 64, JSON_STORE_BYTES = 1 << 16 };

struct json_line {
	const char *wrong; /* NULL: well-formed */
	size_t count;
	struct {
		const char *key, *value; /* decoded; a number is its digits */
		size_t n;
		bool is_number;
	} members[JSON_MEMBERS_MAX];
	size_t used;
	char store[JSON_STORE_BYTES];
};

struct json_input {
	const unsigned char *p, *end;
};

static inline void json_add_utf8(struct json_line *j, unsigned code)
{
	unsigned char out[4];
	size_t n = 0;

	if (code < 0x80) {
		out[n++] = (unsigned char)code;
	} else if (code < 0x800) {
		out[n++] = (unsigned char)(0xc0 | code >> 6);
		out[n++] = (unsigned char)(0x80 | (code & 63));
	} else if (code < 0x10000) {
		out[n++] = (unsigned char)(0xe0 | code >> 12);
		out[n++] = (unsigned char)(0x80 | (code >> 6 & 63));
		out[n++] = (unsigned char)(0x80 | (code & 63));
	} else {
		out[n++] = (unsigned char)(0xf0 | code >> 18);
		out[n++] = (unsigned char)(0x80 | (code >> 12 & 63));
		out[n++] = (unsigned char)(0x80 | (code >> 6 & 63));
		out[n++] = (unsigned char)(0x80 | (code & 63));
	}
	if (j->used + n > JSON_STORE_BYTES - 1) {
		j->wrong = "too long for the reader";
		return;
	}
	memcpy(j->store + j->used, out, n);
	j->used += n;
}

/* One code point of UTF-8, by the table of the Unicode standard (3-7). */
static inline bool json_utf8(struct json_input *in, unsigned *code)
{
	static const struct {
		unsigned char first, last, low, high;
		unsigned more;
	} table[] = {
		{ 0x00, 0x7f, 0x00, 0x00, 0 }, { 0xc2, 0xdf, 0x80, 0xbf, 1 }, { 0xe0, 0xe0, 0xa0, 0xbf, 2 },
		{ 0xe1, 0xec, 0x80, 0xbf, 2 }, { 0xed, 0xed, 0x80, 0x9f, 2 }, { 0xee, 0xef, 0x80, 0xbf, 2 },
		{ 0xf0, 0xf0, 0x90, 0xbf, 3 }, { 0xf1, 0xf3, 0x80, 0xbf, 3 }, { 0xf4, 0xf4, 0x80, 0x8f, 3 },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		unsigned char c = *in->p;

		if (c < table[i].first || c > table[i].last)
			continue;
		if ((size_t)(in->end - in->p) < table[i].more + 1)
			return false;
		*code = table[i].more == 0 ? c : table[i].more == 1 ? c & 31u : table[i].more == 2 ? c & 15u : c & 7u;
		for (unsigned k = 1; k <= table[i].more; k++) {
			unsigned char next = in->p[k];

			if (k == 1 ? next < table[i].low || next > table[i].high : (next & 0xc0) != 0x80)
				return false;
			*code = *code << 6 | (next & 63u);
		}
		in->p += table[i].more + 1;
		return true;
	}
	return false;
}

static inline bool json_is_obeyed(unsigned code)
{
	return code < 0x20 || (code >= 0x7f && code <= 0x9f) || (code >= 0x2028 && code <= 0x202e) ||
		(code >= 0x2066 && code <= 0x2069) || code == 0x200e || code == 0x200f;
}

static inline bool json_unit(struct json_input *in, unsigned *code)
{
	if (in->end - in->p < 2)
		return false;
	in->p++;
	if (*in->p == '"' || *in->p == '\\') {
		*code = *in->p++;
		return true;
	}
	if (*in->p != 'u' || in->end - in->p < 5)
		return false;
	*code = 0;
	for (int i = 1; i <= 4; i++) {
		unsigned char c = in->p[i];

		if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
			return false;
		*code = *code << 4 | (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
	}
	in->p += 5;
	return true;
}

/* What is beyond U+FFFF takes two units; half of such a pair is wrong. */
static inline bool json_escape(struct json_input *in, unsigned *code)
{
	unsigned low;

	if (!json_unit(in, code))
		return false;
	if (*code < 0xd800 || *code > 0xdfff)
		return true;
	if (*code > 0xdbff || in->p == in->end || *in->p != '\\' || !json_unit(in, &low) || low < 0xdc00 || low > 0xdfff)
		return false;
	*code = 0x10000 + ((*code & 0x3ff) << 10) + (low & 0x3ff);
	return true;
}

static inline const char *json_string(struct json_line *j, struct json_input *in, size_t *n)
{
	size_t start = j->used;
	unsigned code;

	in->p++;
	while (in->p < in->end && *in->p != '"') {
		if (*in->p == '\\') {
			if (!json_escape(in, &code))
				j->wrong = "escape";
		} else if (!json_utf8(in, &code)) {
			j->wrong = "UTF-8";
		} else if (json_is_obeyed(code)) {
			j->wrong = "a control character, bare";
		}
		if (j->wrong)
			return NULL;
		json_add_utf8(j, code);
		if (j->wrong)
			return NULL;
	}
	if (in->p == in->end) {
		j->wrong = "no end of a string";
		return NULL;
	}
	in->p++;
	*n = j->used - start;
	j->store[j->used] = '\0';
	if (++j->used >= JSON_STORE_BYTES)
		j->wrong = "too long for the reader";
	return j->store + start;
}

static inline const char *json_number(struct json_line *j, struct json_input *in, size_t *n)
{
	size_t start = j->used;

	while (in->p < in->end && *in->p >= '0' && *in->p <= '9')
		json_add_utf8(j, *in->p++);
	*n = j->used - start;
	if (*n == 0 || (*n > 1 && j->store[start] == '0')) {
		j->wrong = "number";
		return NULL;
	}
	json_add_utf8(j, 0);
	return j->store + start;
}

/* With its '\n', which must be the last byte. j->wrong tells. */
static inline bool json_line_read(struct json_line *j, const char *line, size_t n)
{
	struct json_input in = { (const unsigned char *)line, (const unsigned char *)line + n };
	char separator = '{';

	j->wrong = NULL;
	j->count = j->used = 0;
	if (n < 3 || line[n - 1] != '\n' || line[n - 2] != '}') {
		j->wrong = "does not end in }\\n";
		return false;
	}
	in.end -= 2;
	for (; in.p < in.end; separator = ',') {
		size_t key_n = 0, value_n = 0;
		const char *key, *value;
		bool is_number;

		if (*in.p++ != (unsigned char)separator || in.p == in.end || *in.p != '"') {
			j->wrong = "no member where one should be";
			return false;
		}
		key = json_string(j, &in, &key_n);
		if (!key || in.end - in.p < 2 || *in.p++ != ':') {
			j->wrong = j->wrong ? j->wrong : "no value";
			return false;
		}
		is_number = *in.p != '"';
		value = is_number ? json_number(j, &in, &value_n) : json_string(j, &in, &value_n);
		if (!value)
			return false;
		for (size_t i = 0; i < j->count; i++)
			if (strcmp(j->members[i].key, key) == 0)
				j->wrong = "a member twice";
		if (j->count == JSON_MEMBERS_MAX)
			j->wrong = "too many members";
		if (j->wrong)
			return false;
		j->members[j->count].key = key;
		j->members[j->count].value = value;
		j->members[j->count].n = value_n;
		j->members[j->count++].is_number = is_number;
	}
	return true;
}

/* NULL when there is no such member; n may be NULL. */
static inline const char *json_get(const struct json_line *j, const char *key, size_t *n)
{
	for (size_t i = 0; i < j->count; i++)
		if (strcmp(j->members[i].key, key) == 0) {
			if (n)
				*n = j->members[i].n;
			return j->members[i].value;
		}
	return NULL;
}

/* Does member `key` (or key_hex, key_bytes) say `text`, whole or visibly cut? NULL or what is wrong. */
static inline const char *json_says(const struct json_line *j, const char *key, const char *text, size_t text_n)
{
	char name[64];
	size_t n = 0, hex_n = 0, kept;
	const char *value = json_get(j, key, &n), *hex, *whole;

	snprintf(name, sizeof(name), "%s_hex", key);
	hex = json_get(j, name, &hex_n);
	snprintf(name, sizeof(name), "%s_bytes", key);
	whole = json_get(j, name, NULL);
	if (text_n == 0)
		return value || hex || whole ? "a member for an empty text" : NULL;
	if (!value)
		return "no member";
	if (whole) {
		char digits[24];

		snprintf(digits, sizeof(digits), "%zu", text_n);
		if (strcmp(digits, whole) != 0)
			return "the length of the whole is wrong";
		if (n < 3 || memcmp(value + n - 3, "...", 3) != 0)
			return "cut, and not visibly";
		n -= 3;
	}
	if (!hex)
		return n <= text_n && memcmp(value, text, n) == 0 && (whole ? n < text_n : n == text_n) ? NULL : "not the same text";
	kept = hex_n / 2;
	if (hex_n % 2 != 0 || kept > text_n || (whole ? kept == text_n : kept != text_n))
		return "the length of the hex form is wrong";
	for (size_t i = 0; i < kept; i++) {
		char two[3];

		snprintf(two, sizeof(two), "%02x", (unsigned char)text[i]);
		if (memcmp(two, hex + 2 * i, 2) != 0)
			return "not the same bytes";
	}
	return NULL;
}

#endif
