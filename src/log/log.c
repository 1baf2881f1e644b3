/* Lines for the operator, from any thread to stderr.
 *
 * The hard part is never to wait: stderr is somebody else's pipe, terminal or file. The caller only formats and
 * queues; the thread polls before it writes, and a line is shorter than PIPE_BUF, so that write(2) does not block
 * either and log_stop always finds a thread that looks at its deadline. O_NONBLOCK would do, but it belongs to the
 * open file, which the shell and our parent share with us. */
#include "adit/log/log.h"

#include "adit/base/clock.h"
#include "adit/base/mem.h"
#include "adit/log/stats.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	POLL_MS = 100, /* how often the thread looks whether it shall stop */
	STOP_MS = 2000,
	DIRECT_MS = 1000, /* patience of a caller that writes itself */
};

_Static_assert(LOG_LINE_MAX <= PIPE_BUF, "a line must fit into a pipe that is said to be writable");

struct line {
	STAILQ_ENTRY(line) entry;
	size_t n;
	char text[];
};
STAILQ_HEAD(line_list, line);

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	pthread_t thread;
	bool running, stopping, ended;
	struct line_list queue;
	size_t count, max;
	unsigned long long dropped;
	bool journald;
	_Atomic uint64_t stop_by_ms; /* 0: not asked to stop */
} service = { .lock = PTHREAD_MUTEX_INITIALIZER, .queue = STAILQ_HEAD_INITIALIZER(service.queue) };

static _Atomic int level_most = LOG_LEVEL_NOTICE;

void log_set_level(enum log_level most)
{
	atomic_store_explicit(&level_most, (int)most, memory_order_relaxed);
}

bool log_wants(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&level_most, memory_order_relaxed);
}

/* systemd.exec(5): JOURNAL_STREAM is "device:inode" of the stream that the journal reads. A child of ours that
 * redirects its stderr inherits the variable, hence the comparison. */
static bool stderr_is_journal(void)
{
	const char *stream = getenv("JOURNAL_STREAM");
	char ours[64];
	struct stat st;

	if (!stream || fstat(STDERR_FILENO, &st) < 0)
		return false;
	snprintf(ours, sizeof(ours), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	return strcmp(ours, stream) == 0;
}

static const char *level_word(enum log_level level)
{
	switch (level) {
	case LOG_LEVEL_ERR: return "error: ";
	case LOG_LEVEL_WARNING: return "warning: ";
	case LOG_LEVEL_NOTICE: return "";
	case LOG_LEVEL_INFO: return "info: ";
	case LOG_LEVEL_DEBUG: return "debug: ";
	}
	return "";
}

/* The whole line with its '\n'; number of bytes. */
static size_t ADIT_PRINTF(4, 0) line_format(char out[static LOG_LINE_MAX], enum log_level level, bool journald,
					    const char *fmt, va_list args)
{
	int head = journald ? snprintf(out, LOG_LINE_MAX, "<%d>", (int)level)
	                    : snprintf(out, LOG_LINE_MAX, "adit: %s", level_word(level));
	size_t start = head > 0 ? (size_t)head : 0, room = LOG_LINE_MAX - start - 1;
	int wanted = vsnprintf(out + start, room, fmt, args);
	size_t n = start;

	if (wanted > 0)
		n += (size_t)wanted < room ? (size_t)wanted : room - 1;
	if (wanted > 0 && (size_t)wanted >= room)
		memcpy(out + n - 3, "...", 3);
	for (size_t i = start; i < n; i++)
		if ((unsigned char)out[i] < 0x20 || out[i] == 0x7f)
			out[i] = '?';
	out[n++] = '\n';
	return n;
}

/* Until stderr takes bytes, has failed (then write says how), or until_ms has passed. */
static bool stderr_wait(uint64_t until_ms)
{
	struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };

	for (;;) {
		uint64_t now = clock_mono_ms(), stop = atomic_load(&service.stop_by_ms);
		uint64_t until = until_ms && (!stop || until_ms < stop) ? until_ms : stop;
		uint64_t left = until > now ? until - now : 0;

		if (poll(&p, 1, until && left < POLL_MS ? (int)left : POLL_MS) > 0)
			return true;
		if (until && left == 0)
			return false;
	}
}

/* until_ms 0: as long as it takes, or as log_stop allows. */
static void line_write(const char *text, size_t n, uint64_t until_ms)
{
	while (n > 0) {
		ssize_t done;

		if (!stderr_wait(until_ms))
			break;
		done = write(STDERR_FILENO, text, n);
		if (done < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (done <= 0)
			break;
		text += done;
		n -= (size_t)done;
	}
	if (n > 0)
		stats_inc(STAT_LOG_DROPPED);
}

static void ADIT_PRINTF(2, 0) direct_write(enum log_level level, const char *fmt, va_list args)
{
	char text[LOG_LINE_MAX];

	line_write(text, line_format(text, level, stderr_is_journal(), fmt, args), clock_mono_ms() + DIRECT_MS);
}

/* From the thread itself, past the queue. */
static void ADIT_PRINTF(2, 3) thread_say(enum log_level level, const char *fmt, ...)
{
	char text[LOG_LINE_MAX];
	va_list args;
	size_t n;

	va_start(args, fmt);
	n = line_format(text, level, service.journald, fmt, args);
	va_end(args);
	line_write(text, n, 0);
}

static void *log_main(void *unused)
{
	(void)unused;
	pthread_mutex_lock(&service.lock);
	for (;;) {
		struct line_list todo = STAILQ_HEAD_INITIALIZER(todo);
		unsigned long long dropped;
		struct line *line;

		while (STAILQ_EMPTY(&service.queue) && service.dropped == 0 && !service.stopping)
			pthread_cond_wait(&service.changed, &service.lock);
		if (STAILQ_EMPTY(&service.queue) && service.dropped == 0)
			break;
		STAILQ_CONCAT(&todo, &service.queue);
		service.count = 0;
		dropped = service.dropped;
		service.dropped = 0;
		pthread_mutex_unlock(&service.lock);

		while ((line = STAILQ_FIRST(&todo))) {
			STAILQ_REMOVE_HEAD(&todo, entry);
			line_write(line->text, line->n, 0);
			mem_free(line);
		}
		if (dropped > 0)
			thread_say(LOG_LEVEL_WARNING, "%llu lines were left out here: stderr does not keep up", dropped);
		pthread_mutex_lock(&service.lock);
	}
	service.ended = true;
	pthread_cond_broadcast(&service.changed);
	pthread_mutex_unlock(&service.lock);
	return NULL;
}

bool log_start(size_t lines)
{
	pthread_condattr_t attr;
	sigset_t all, before;
	bool ok;

	pthread_mutex_lock(&service.lock);
	ADIT_ASSERT(!service.running);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&service.changed, &attr);
	pthread_condattr_destroy(&attr);
	service.max = lines > 0 ? lines : 1;
	service.stopping = service.ended = false;
	service.journald = stderr_is_journal();
	/* Signals are the main thread's; an EPIPE must not become one either. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	ok = pthread_create(&service.thread, NULL, log_main, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (ok)
		pthread_setname_np(service.thread, "adit-log");
	service.running = ok;
	pthread_mutex_unlock(&service.lock);
	return ok;
}

void log_stop(void)
{
	pthread_mutex_lock(&service.lock);
	if (!service.running) {
		pthread_mutex_unlock(&service.lock);
		return;
	}
	service.running = false; /* later lines are written by their callers */
	service.stopping = true;
	atomic_store(&service.stop_by_ms, clock_mono_ms() + STOP_MS);
	pthread_cond_broadcast(&service.changed);
	/* The thread cannot be stuck: it polls before each write, and sees the deadline. */
	while (!service.ended)
		pthread_cond_wait(&service.changed, &service.lock);
	pthread_mutex_unlock(&service.lock);
	pthread_join(service.thread, NULL);
	pthread_cond_destroy(&service.changed);
	atomic_store(&service.stop_by_ms, 0);
}

/* False: there is no thread, the caller shall write itself. */
static bool line_queue(const char *text, size_t n)
{
	struct line *line = mem_alloc(sizeof(*line) + n);
	bool running;

	if (line) {
		line->n = n;
		memcpy(line->text, text, n);
	}
	pthread_mutex_lock(&service.lock);
	running = service.running;
	if (running && line && service.count < service.max) {
		STAILQ_INSERT_TAIL(&service.queue, line, entry);
		service.count++;
		line = NULL;
		pthread_cond_signal(&service.changed);
	} else if (running) {
		service.dropped++;
		stats_inc(STAT_LOG_DROPPED);
		pthread_cond_signal(&service.changed);
	}
	pthread_mutex_unlock(&service.lock);
	mem_free(line);
	return running;
}

static bool thread_runs(bool *journald)
{
	bool running;

	pthread_mutex_lock(&service.lock);
	running = service.running;
	*journald = service.journald;
	pthread_mutex_unlock(&service.lock);
	return running;
}

void log_write(enum log_level level, const char *fmt, ...)
{
	char text[LOG_LINE_MAX];
	int saved = errno;
	bool journald, queued = false;
	va_list args;

	if (!log_wants(level))
		return;
	if (thread_runs(&journald)) {
		va_start(args, fmt);
		queued = line_queue(text, line_format(text, level, journald, fmt, args));
		va_end(args);
	}
	if (!queued) {
		va_start(args, fmt);
		direct_write(level, fmt, args);
		va_end(args);
	}
	errno = saved;
}

bool log_limit(struct log_limit *limit)
{
	unsigned long long next = atomic_load_explicit(&limit->next_ms, memory_order_relaxed);
	unsigned long long now = clock_mono_ms(), skipped;

	if (now < next || !atomic_compare_exchange_strong(&limit->next_ms, &next, now + limit->every_ms)) {
		atomic_fetch_add_explicit(&limit->skipped, 1, memory_order_relaxed);
		return false;
	}
	skipped = atomic_exchange(&limit->skipped, 0);
	if (skipped > 0)
		log_notice("%llu lines like the next were left out", skipped);
	return true;
}

const char *log_safe(struct slice text, char *buf, size_t size)
{
	static const char hex[] = "0123456789abcdef";
	size_t n = 0, whole = 0; /* whole: where "..." still fits */

	if (size == 0)
		return buf;
	for (size_t i = 0; i < text.n; i++) {
		unsigned char c = (unsigned char)text.p[i];
		bool plain = c >= 0x20 && c < 0x7f && c != '\\' && c != '"';
		size_t need = plain ? 1 : 4;

		if (n + need >= size) {
			n = whole;
			for (int dots = 0; dots < 3 && n + 1 < size; dots++)
				buf[n++] = '.';
			break;
		}
		if (plain) {
			buf[n++] = (char)c;
		} else {
			memcpy(buf + n, "\\x", 2);
			buf[n + 2] = hex[c >> 4];
			buf[n + 3] = hex[c & 15];
			n += 4;
		}
		if (n + 3 < size)
			whole = n;
	}
	buf[n] = '\0';
	return buf;
}
