/* Diagnostics for the operator, on stderr, one write(2) a line: "adit: warning: text" ("adit: text" for a notice), or
 * "<4>text" under journald (JOURNAL_STREAM names our stderr). Never a secret, never raw bytes of a stranger: log_safe
 * makes those printable. Control characters become '?', so that a line is a line.
 *
 * After log_start a thread of its own writes, so that a full pipe never stops an event loop: lines go through a
 * bounded queue (log_start's `lines`); what does not fit is counted and said in one line later. */
#ifndef ADIT_LOG_LOG_H
#define ADIT_LOG_LOG_H

#include "adit/base/obj.h"
#include "adit/base/slice.h"

/* syslog's words and order, lower is more severe */
enum log_level {
	LOG_LEVEL_ERR = 3, LOG_LEVEL_WARNING = 4, LOG_LEVEL_NOTICE = 5, LOG_LEVEL_INFO = 6, LOG_LEVEL_DEBUG = 7
};

enum { LOG_LINE_MAX = 1024 }; /* bytes with prefix and '\n'; longer lines end in "..." */

void log_set_level(enum log_level most); /* default LOG_LEVEL_NOTICE; from any thread */
bool log_wants(enum log_level level);

/* False: no thread or no memory, lines go on being written by the caller. */
bool log_start(size_t lines) ADIT_MUST_USE; /* before it, and after log_stop: written by the caller */
void log_stop(void); /* writes what is queued (at most 2 s), then ends the thread */

/* Keeps errno. */
void log_write(enum log_level level, const char *fmt, ...) ADIT_PRINTF(2, 3);
#define log_err(...) log_write(LOG_LEVEL_ERR, __VA_ARGS__)
#define log_warning(...) log_write(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_notice(...) log_write(LOG_LEVEL_NOTICE, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

/* At most one line per `every_ms` for this place; before the next one a line says how many were left out.
 * static struct log_limit limit = LOG_LIMIT(10000); if (log_limit(&limit)) log_warning(...); */
struct log_limit {
	_Atomic unsigned long long next_ms;
	_Atomic unsigned long long skipped;
	unsigned every_ms;
};
#define LOG_LIMIT(ms) { 0, 0, (ms) }
bool log_limit(struct log_limit *limit);

/* Copies text with every byte outside printable ASCII, and '\\' and '"', as \xHH, cut to size with "..."; returns
 * buf. */
const char *log_safe(struct slice text, char *buf, size_t size);

#endif
