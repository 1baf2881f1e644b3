/* Which record goes into which file, and what the operator is told about a file that fails.
 *
 * access.jsonl comes first and decides; a record that is in it and not in its user's file is not complete either, for
 * "each access is in the user's own log" is the promise. A batch is therefore written to access.jsonl as a whole,
 * then user by user: records of one user wait in a chain at their open file, so that a busy user costs one write a
 * batch. The hard part is that everything here may vanish at any time (logrotate, rm -r, a full disk) and come back.
 * Each batch begins with a look whether access.jsonl still has a name; a file that failed is tried once in a batch. */
#include "audit/audit_priv.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	IOV_CHUNK = 128,
	STRANGER_BYTES_DEFAULT = 16 << 20,
	OPEN_FILES_DEFAULT = 64,
	SAY_MS = 1000,
};

static const char access_name[] = "access.jsonl", strangers_name[] = "strangers.jsonl";

struct user_file {
	struct appender file;
	struct record_list chain; /* of this batch */
	SLIST_ENTRY(user_file) entry; /* in directory.waiting when the chain is not empty */
	bool failing, said;
	unsigned tried; /* in this batch, in vain */
};

struct directory {
	const struct audit_sys *sys;
	char *path;
	int fd, users_fd;
	struct appender access, strangers;
	bool access_failing, access_said, strangers_said;
	bool retry, failure_allows; /* of this batch */
	off_t stranger_bytes;
	size_t open_files;
	struct lru *users; /* user to struct user_file */
	SLIST_HEAD(, user_file) waiting;
	unsigned batch;
};

/* --- opening -------------------------------------------------------------------------------------------------- */

static int open_directory(const struct directory *d, int at, const char *name, int flags)
{
	return d->sys->open_at(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | flags, 0);
}

/* The two directories by their names again. What cannot be opened leaves the old descriptor; errno tells. */
static bool find_directories(struct directory *d)
{
	int fd = open_directory(d, AT_FDCWD, d->path, 0), users_fd;

	if (fd < 0)
		return false;
	if (d->fd >= 0)
		close(d->fd);
	d->fd = fd;
	if (mkdirat(fd, "users", 0750) < 0 && errno != EEXIST)
		return false;
	users_fd = open_directory(d, fd, "users", O_NOFOLLOW);
	if (users_fd < 0)
		return false;
	if (d->users_fd >= 0)
		close(d->users_fd);
	d->users_fd = users_fd;
	return true;
}

static void close_directories(struct directory *d)
{
	if (d->fd >= 0)
		close(d->fd);
	if (d->users_fd >= 0)
		close(d->users_fd);
	d->fd = d->users_fd = -1;
}

/* A file of ours, in a directory that may have been made anew. */
static bool open_file(struct directory *d, struct appender *a, bool of_user, const char *name)
{
	if (appender_open(a, d->sys, of_user ? d->users_fd : d->fd, name))
		return true;
	if (a->error != ENOENT && a->error != EBADF)
		return false;
	if (!find_directories(d)) {
		a->error = errno;
		return false;
	}
	return appender_open(a, d->sys, of_user ? d->users_fd : d->fd, name);
}

static void on_user_drop(void *value, void *ctx)
{
	struct user_file *u = value;

	(void)ctx;
	ADIT_ASSERT(STAILQ_EMPTY(&u->chain));
	appender_close(&u->file);
}

static const char *why(int error)
{
	const char *text = strerrordesc_np(error);

	if (error == ELOOP)
		return "it is a symbolic link";
	if (error == EINVAL)
		return "it is not a regular file";
	return text ? text : "unknown error";
}

static void explain(char *error, size_t size, const char *path, const char *name, int code)
{
	snprintf(error, size, "directory %s: %s%s%s; the service user must be able to make files there and append to them",
		 path, name, *name ? ": " : "", why(code));
}

struct directory *directory_new(const struct audit_config *config, const struct audit_sys *sys, char *error,
				size_t error_size)
{
	struct directory *d = mem_alloc(sizeof(*d));
	const char *failed = "";

	if (!d)
		goto no_memory;
	d->sys = sys;
	d->fd = d->users_fd = -1;
	appender_init(&d->access);
	appender_init(&d->strangers);
	SLIST_INIT(&d->waiting);
	d->stranger_bytes = (off_t)(config->stranger_bytes ? config->stranger_bytes : STRANGER_BYTES_DEFAULT);
	d->open_files = config->open_files ? config->open_files : OPEN_FILES_DEFAULT;
	d->path = mem_strdup(config->directory);
	d->users = lru_new(d->open_files, sizeof(struct user_file), on_user_drop, NULL);
	if (!d->path || !d->users)
		goto no_memory;
	if (!find_directories(d))
		goto fail;
	failed = access_name;
	errno = 0;
	if (!appender_open(&d->access, sys, d->fd, access_name)) {
		errno = d->access.error;
		goto fail;
	}
	failed = strangers_name;
	if (!appender_open(&d->strangers, sys, d->fd, strangers_name)) {
		errno = d->strangers.error;
		goto fail;
	}
	return d;
fail:
	explain(error, error_size, config->directory, failed, errno);
	directory_free(d);
	return NULL;
no_memory:
	snprintf(error, error_size, "out of memory");
	directory_free(d);
	return NULL;
}

void directory_free(struct directory *d)
{
	if (!d)
		return;
	lru_free(d->users);
	appender_close(&d->access);
	appender_close(&d->strangers);
	close_directories(d);
	mem_free(d->path);
	mem_free(d);
}

void directory_reopen(struct directory *d)
{
	void *user;

	while ((user = lru_oldest(d->users)))
		lru_remove(d->users, user);
	appender_close(&d->access);
	appender_close(&d->strangers);
	/* Else the files would be looked for in a directory that was renamed. What fails here is found again, and said, by
	 * the next record; meanwhile the new names exist as soon as they can. */
	close_directories(d);
	if (!find_directories(d))
		return;
	(void)appender_open(&d->access, d->sys, d->fd, access_name);
	(void)appender_open(&d->strangers, d->sys, d->fd, strangers_name);
}

/* --- access.jsonl --------------------------------------------------------------------------------------------- */

static void say_access(struct directory *d)
{
	if (d->access_failing && !d->access_said)
		log_err("audit: %s/%s: %s; %s", d->path, access_name, why(d->access.error), d->failure_allows ?
			"requests go on without a record" : "nothing is let through until it can be written");
	else if (!d->access_failing && d->access_said)
		log_notice("audit: %s/%s: writing again", d->path, access_name);
	d->access_said = d->access_failing;
}

static bool access_ready(struct directory *d)
{
	return (d->access.fd >= 0 && !appender_is_gone(&d->access)) || open_file(d, &d->access, false, access_name);
}

static void write_access(struct directory *d, struct record_list *batch)
{
	struct record *r = STAILQ_FIRST(batch), *first;
	struct iovec iov[IOV_CHUNK];
	size_t count, done;

	while (r) {
		first = r;
		for (count = 0; r && count < IOV_CHUNK; r = STAILQ_NEXT(r, entry))
			if (!r->in_access && r->line_n > 0)
				iov[count++] = (struct iovec){ r->line, r->line_n };
		if (count == 0)
			continue;
		done = appender_write(&d->access, d->sys, iov, count);
		for (struct record *w = first; w != r && done > 0; w = STAILQ_NEXT(w, entry))
			if (!w->in_access && w->line_n > 0) {
				w->in_access = true;
				done--;
			}
		if (d->access.error)
			return;
	}
}

/* --- users/NAME.jsonl ------------------------------------------------------------------------------------------ */

static void write_chains(struct directory *d);

static void say_user(struct directory *d, struct user_file *u, int error)
{
	static struct log_limit limit = LOG_LIMIT(SAY_MS);
	char user[128];
	size_t n;
	const char *key = lru_key(u, &n);

	u->failing = error != 0;
	log_safe((struct slice){ key, n }, user, sizeof(user));
	if (!error && u->said) {
		log_notice("audit: %s/users: the file of user %s: writing again", d->path, user);
		u->said = false;
	} else if (error && !u->said && log_limit(&limit)) {
		log_err("audit: %s/users: the file of user %s: %s; %s", d->path, user, why(error), d->failure_allows ?
			"this user's requests go on without it" : "nothing is let through for this user");
		u->said = true;
	}
}

/* Descriptors are scarce: those of users who have been quiet longest go first. */
static bool open_user(struct directory *d, struct user_file *u, const char *name)
{
	if (open_file(d, &u->file, true, name))
		return true;
	if ((u->file.error != EMFILE && u->file.error != ENFILE) || lru_oldest(d->users) == u)
		return false;
	write_chains(d);
	lru_remove(d->users, lru_oldest(d->users));
	return open_file(d, &u->file, true, name);
}

static bool user_ready(struct directory *d, struct user_file *u, const struct record *r)
{
	char name[AUDIT_FILE_NAME_SIZE], *user;
	bool ok;

	if (u->tried == d->batch || (u->failing && !d->retry))
		return false;
	u->file.error = 0;
	if (!STAILQ_EMPTY(&u->chain) || (u->file.fd >= 0 && !appender_is_gone(&u->file)))
		return true;
	user = mem_strndup(record_user(r), r->user_n);
	ok = user && audit_file_name(user, name) && open_user(d, u, name);
	if (!ok) {
		u->tried = d->batch;
		say_user(d, u, u->file.error ? u->file.error : ENOMEM);
	}
	mem_free(user);
	return ok;
}

static void write_chain(struct directory *d, struct user_file *u)
{
	struct iovec iov[IOV_CHUNK];
	struct record *r;

	u->file.error = 0;
	while (!STAILQ_EMPTY(&u->chain) && u->file.error == 0) {
		size_t count = 0, done;

		STAILQ_FOREACH(r, &u->chain, of_user) {
			if (count == IOV_CHUNK)
				break;
			iov[count++] = (struct iovec){ r->line, r->line_n };
		}
		done = appender_write(&u->file, d->sys, iov, count);
		while (done-- > 0) {
			STAILQ_FIRST(&u->chain)->in_user = true;
			STAILQ_REMOVE_HEAD(&u->chain, of_user);
		}
	}
	STAILQ_INIT(&u->chain);
	if (u->file.error)
		u->tried = d->batch;
	say_user(d, u, u->file.error);
}

static void write_chains(struct directory *d)
{
	struct user_file *u;

	while ((u = SLIST_FIRST(&d->waiting))) {
		SLIST_REMOVE_HEAD(&d->waiting, entry);
		write_chain(d, u);
	}
}

static struct user_file *user_file_of(struct directory *d, const struct record *r)
{
	struct user_file *u = lru_get(d->users, record_user(r), r->user_n);

	if (u)
		return u;
	if (lru_count(d->users) == d->open_files) /* the one that makes room may have a chain */
		write_chains(d);
	u = lru_put(d->users, record_user(r), r->user_n, NULL);
	if (u) {
		appender_init(&u->file);
		STAILQ_INIT(&u->chain);
	}
	return u;
}

static void write_users(struct directory *d, struct record_list *batch)
{
	struct record *r;

	STAILQ_FOREACH(r, batch, entry) {
		struct user_file *u;

		if (!r->in_access || r->in_user)
			continue;
		u = user_file_of(d, r);
		if (!u || !user_ready(d, u, r))
			continue;
		if (STAILQ_EMPTY(&u->chain))
			SLIST_INSERT_HEAD(&d->waiting, u, entry);
		STAILQ_INSERT_TAIL(&u->chain, r, of_user);
	}
	write_chains(d);
}

void directory_write(struct directory *d, struct record_list *batch, bool retry, bool failure_allows)
{
	d->retry = retry;
	d->failure_allows = failure_allows;
	if (++d->batch == 0)
		d->batch = 1;
	if (d->access_failing && !retry)
		return;
	if (access_ready(d))
		write_access(d, batch);
	d->access_failing = d->access.error != 0;
	say_access(d);
	write_users(d, batch);
}

/* --- strangers.jsonl ------------------------------------------------------------------------------------------- */

static bool strangers_ready(struct directory *d, size_t more)
{
	struct appender *a = &d->strangers;

	if (a->fd < 0 || appender_is_gone(a)) {
		if (!open_file(d, a, false, strangers_name))
			return false;
	}
	if (appender_size(a) == 0 || appender_size(a) + (off_t)more <= d->stranger_bytes)
		return true;
	if (renameat(d->fd, strangers_name, d->fd, "strangers.jsonl.1") < 0 && errno != ENOENT) {
		a->error = errno;
		return false;
	}
	return open_file(d, a, false, strangers_name);
}

size_t directory_write_strangers(struct directory *d, struct record_list *batch)
{
	struct record *r;
	size_t written = 0;
	int error = 0;

	/* One by one: there are a hundred a second at most, and the cap is exact. */
	STAILQ_FOREACH(r, batch, entry) {
		struct iovec iov = { r->line, r->line_n };

		if (strangers_ready(d, r->line_n) && appender_write(&d->strangers, d->sys, &iov, 1) == 1)
			written++;
		else
			error = d->strangers.error;
	}
	if (error && !d->strangers_said)
		log_err("audit: %s/%s: %s; refusals before authentication go unrecorded", d->path, strangers_name, why(error));
	else if (!error && d->strangers_said)
		log_notice("audit: %s/%s: writing again", d->path, strangers_name);
	d->strangers_said = error != 0;
	return written;
}
