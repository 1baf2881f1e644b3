/* What all heads and trailer sections are read with: bytes of lines, field lines, lists. A request's head and a
 * response's differ by their rules. */
#ifndef ADIT_SRC_HTTP_HEAD_PRIV_H
#define ADIT_SRC_HTTP_HEAD_PRIV_H

#include "adit/base/obj.h"
#include "adit/http/head.h"

struct head_field_rule {
	const char *name;
	enum reason (*take)(struct head_parser *p, const char *buf, struct slice value);
};

struct head_rules {
	bool crlf_before; /* one empty line is ignored in front of the first (RFC 9112 2.2) */
	enum reason (*start_line)(struct head_parser *p, const char *buf, struct slice line);
	const struct head_field_rule *fields; /* whose values matter here; ends with a row without a name */
	enum reason (*check)(const struct head_parser *p, const char *buf); /* when all fields are known */
};

void head_init_rules(struct head_parser *p, const struct head_rules *rules);
/* Takes bytes until the head is done, bad or out of bytes. */
enum head_status head_run(struct head_parser *p, const char *buf, size_t len, const struct head_limits *limits);

/* Judges one byte of a line; `first` is that of a field line. *ends: the line's CRLF is complete. */
enum reason head_byte(char c, bool first, bool *after_cr, bool *ends);
/* A whole field line without its CRLF. */
bool head_field_split(struct slice line, struct head_field *out);

/* HTTP/1.x; VERSION_UNSUPPORTED only for what is well-formed. */
enum reason head_version(struct slice text, unsigned *minor);
struct slice head_slice(const char *buf, struct head_span span);
struct head_span head_span_of(const char *buf, struct slice s);

/* Walks over the elements of a comma-separated list, empty ones included. */
bool head_next_element(struct slice *list, struct slice *out);
bool head_list_has(struct slice list, const char *token);

/* Fields that mean the same in both directions. */
enum reason head_on_content_length(struct head_parser *p, const char *buf, struct slice value);
enum reason head_on_transfer_encoding(struct head_parser *p, const char *buf, struct slice value);
enum reason head_on_connection(struct head_parser *p, const char *buf, struct slice value);

#endif
