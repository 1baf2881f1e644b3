/* One line of an htpasswd file, changed so that nobody ever reads half a file.
 *
 * The new text goes to a file of its own in the same folder, is synced, gets the old one's owner, mode and access list,
 * and takes its name by rename. What has to be locked against a second run is therefore not the file, which is another
 * one after the rename: it is the folder, by flock. It needs no lock file that stays behind, and ends with the process.
 * Symbolic links are followed first, so that the link stays and its target changes. */
#include "cli/passwd_priv.h"

#include "adit/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

enum { FILE_MAX_BYTES = 64 * 1024 * 1024, TEMP_NAME_SIZE = 64, ACL_MAX_BYTES = 64 * 1024 };

static const char acl_name[] = "system.posix_acl_access";

struct place {
	int folder; /* descriptor, locked */
	char name[NAME_MAX + 1];
};

struct text {
	char *p;
	size_t n, room;
};

void passwd_error_set(struct passwd_error *error, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(error->text, sizeof(error->text), fmt, ap);
	va_end(ap);
}

/* --- where ----------------------------------------------------------------------------------------------------- */

/* The file's real folder and name; the file itself need not be there. */
static bool resolve(const char *path, char folder[static PATH_MAX], char name[static NAME_MAX + 1],
	struct passwd_error *error)
{
	char real[PATH_MAX], parent[PATH_MAX];
	const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;
	struct stat st;

	if (realpath(path, real)) {
		char *cut = strrchr(real, '/');

		snprintf(name, NAME_MAX + 1, "%s", cut + 1);
		cut[cut == real ? 1 : 0] = '\0';
		snprintf(folder, PATH_MAX, "%s", real);
		return true;
	}
	if (errno != ENOENT || strlen(path) >= sizeof(parent) || strlen(base) > NAME_MAX || *base == '\0') {
		passwd_error_set(error, "%s", strerrordesc_np(errno == ENOENT ? ENAMETOOLONG : errno));
		return false;
	}
	if (lstat(path, &st) == 0) {
		passwd_error_set(error, "this is a symbolic link to a file that does not exist");
		return false;
	}
	snprintf(parent, sizeof(parent), "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
	if (!realpath(parent, folder)) {
		passwd_error_set(error, "the folder %s: %s", parent, strerrordesc_np(errno));
		return false;
	}
	snprintf(name, NAME_MAX + 1, "%s", base);
	return true;
}

static bool place_open(struct place *place, const char *path, struct passwd_error *error)
{
	char folder[PATH_MAX];

	place->folder = -1;
	if (!resolve(path, folder, place->name, error))
		return false;
	place->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (place->folder < 0) {
		passwd_error_set(error, "the folder %s: %s", folder, strerrordesc_np(errno));
		return false;
	}
	while (flock(place->folder, LOCK_EX) != 0) {
		if (errno == EINTR)
			continue;
		passwd_error_set(error, "the folder %s can not be locked against a second run: %s", folder,
			strerrordesc_np(errno));
		return false;
	}
	return true;
}

/* --- text ------------------------------------------------------------------------------------------------------ */

static bool text_room(struct text *t, size_t more)
{
	size_t room = t->room ? t->room : 4096;
	char *p;

	while (room - t->n < more)
		room *= 2;
	if (room == t->room)
		return true;
	p = mem_resize(t->p, room, 1);
	if (!p)
		return false;
	t->p = p;
	t->room = room;
	return true;
}

static bool text_add(struct text *t, const char *p, size_t n)
{
	if (!text_room(t, n))
		return false;
	if (n > 0)
		memcpy(t->p + t->n, p, n);
	t->n += n;
	return true;
}

static bool text_read(struct text *t, int fd)
{
	for (;;) {
		ssize_t got;

		if (t->n > FILE_MAX_BYTES) {
			errno = EFBIG;
			return false;
		}
		if (!text_room(t, 4096)) {
			errno = ENOMEM;
			return false;
		}
		got = read(fd, t->p + t->n, t->room - t->n);
		if (got == 0)
			return true;
		if (got < 0 && errno != EINTR)
			return false;
		t->n += got > 0 ? (size_t)got : 0;
	}
}

static bool text_write(const struct text *t, int fd)
{
	for (size_t done = 0; done < t->n;) {
		ssize_t put = write(fd, t->p + done, t->n - done);

		if (put < 0 && errno != EINTR)
			return false;
		done += put > 0 ? (size_t)put : 0;
	}
	return true;
}

static bool is_line_of(struct slice line, struct slice user)
{
	return line.n > user.n && line.p[user.n] == ':' && memcmp(line.p, user.p, user.n) == 0;
}

static bool add_entry(struct text *to, struct slice user, const char *hash)
{
	return text_add(to, user.p, user.n) && text_add(to, ":", 1) && text_add(to, hash, strlen(hash));
}

/* The user's first line is changed in its place, further ones (which adit refuses) go. False: out of memory. */
static bool rewrite(const struct text *from, struct slice user, const char *hash, struct text *to, unsigned *found)
{
	static const struct slice bom = { "\xef\xbb\xbf", 3 };
	size_t at = from->n >= bom.n && memcmp(from->p, bom.p, bom.n) == 0 ? bom.n : 0;
	bool ok = text_add(to, from->p, at);

	*found = 0;
	while (ok && at < from->n) {
		const char *line = from->p + at, *newline = memchr(line, '\n', from->n - at);
		size_t whole = newline ? (size_t)(newline - line) + 1 : from->n - at, n = newline ? whole - 1 : whole;

		n -= n > 0 && line[n - 1] == '\r' ? 1 : 0;
		at += whole;
		if (!is_line_of((struct slice){ line, n }, user))
			ok = text_add(to, line, whole);
		else if ((*found)++ == 0 && hash)
			ok = add_entry(to, user, hash) && text_add(to, line + n, whole - n);
	}
	if (ok && *found == 0 && hash) {
		if (to->n > 0 && to->p[to->n - 1] != '\n')
			ok = text_add(to, "\n", 1);
		ok = ok && add_entry(to, user, hash) && text_add(to, "\n", 1);
	}
	return ok;
}

/* --- the new file ---------------------------------------------------------------------------------------------- */

static int temp_open(int folder, char name[static TEMP_NAME_SIZE])
{
	unsigned long long number;

	if (getrandom(&number, sizeof(number), 0) != sizeof(number))
		return -1;
	snprintf(name, TEMP_NAME_SIZE, ".adit-passwd.%016llx", number);
	return openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
}

/* As who and with what access the old file was there: the proxy's user must be able to read the new one, and nobody
 * else who could not before. */
static bool take_over_access(int old, int new, const struct stat *st, struct passwd_error *error)
{
	struct stat mine;
	ssize_t n;
	char *acl;
	bool ok;

	if (fstat(new, &mine) != 0)
		mine = (struct stat){ .st_uid = (uid_t)-1 };
	if ((mine.st_uid != st->st_uid || mine.st_gid != st->st_gid) && fchown(new, st->st_uid, st->st_gid) != 0) {
		passwd_error_set(error, "the owner of the file can not be kept (%s); run this as its owner or as root",
			strerrordesc_np(errno));
		return false;
	}
	if (fchmod(new, st->st_mode & 0777) != 0) {
		passwd_error_set(error, "the mode of the file can not be kept: %s", strerrordesc_np(errno));
		return false;
	}
	n = fgetxattr(old, acl_name, NULL, 0);
	if (n <= 0 || n > ACL_MAX_BYTES)
		return true;
	acl = mem_alloc((size_t)n);
	ok = acl && fgetxattr(old, acl_name, acl, (size_t)n) == n && fsetxattr(new, acl_name, acl, (size_t)n, 0) == 0;
	if (!ok)
		passwd_error_set(error, "the access list of the file can not be kept: %s",
			strerrordesc_np(acl ? errno : ENOMEM));
	mem_free(acl);
	return ok;
}

/* `old` is -1 for a new file. */
static bool replace(const struct place *place, int old, const struct stat *st, const struct text *text,
	struct passwd_error *error)
{
	char temp[TEMP_NAME_SIZE];
	int fd = temp_open(place->folder, temp);
	bool ok;

	if (fd < 0) {
		passwd_error_set(error, "no file can be made in the folder: %s", strerrordesc_np(errno));
		return false;
	}
	ok = text_write(text, fd) && (old >= 0 || fchmod(fd, 0600) == 0);
	if (!ok)
		passwd_error_set(error, "writing the new file failed: %s", strerrordesc_np(errno));
	ok = ok && (old < 0 || take_over_access(old, fd, st, error));
	if (ok && (fsync(fd) != 0 || renameat(place->folder, temp, place->folder, place->name) != 0)) {
		passwd_error_set(error, "the new file can not take the old one's place: %s", strerrordesc_np(errno));
		ok = false;
	}
	close(fd);
	if (!ok)
		(void)unlinkat(place->folder, temp, 0);
	else
		(void)fsync(place->folder); /* the change is there; only a power cut could still undo it */
	return ok;
}

static enum passwd_change change_at(const struct place *place, struct slice user, const char *hash,
	struct passwd_error *error)
{
	enum passwd_change result = PASSWD_FAILED;
	struct text before = { 0 }, after = { 0 };
	struct stat st = { 0 };
	sigset_t all, blocked;
	int old = openat(place->folder, place->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	unsigned found = 0;

	if (old < 0 && (errno != ENOENT || !hash)) {
		passwd_error_set(error, "the file can not be opened: %s", strerrordesc_np(errno));
		goto out;
	}
	if (old >= 0 && (fstat(old, &st) != 0 || !S_ISREG(st.st_mode))) {
		passwd_error_set(error, "this is not a regular file");
		goto out;
	}
	if (old >= 0 && !text_read(&before, old)) {
		passwd_error_set(error, "the file can not be read: %s", strerrordesc_np(errno));
		goto out;
	}
	if (!rewrite(&before, user, hash, &after, &found)) {
		passwd_error_set(error, "out of memory");
		goto out;
	}
	if (!hash && found == 0) {
		passwd_error_set(error, "the file has no user of this name");
		goto out;
	}
	/* An interrupt must not leave the temporary file behind. */
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &blocked);
	if (replace(place, old, &st, &after, error))
		result = !hash ? PASSWD_DELETED : found > 0 ? PASSWD_REPLACED : PASSWD_ADDED;
	sigprocmask(SIG_SETMASK, &blocked, NULL);
out:
	if (old >= 0)
		close(old);
	mem_burn(before.p, before.n);
	mem_free(before.p);
	mem_burn(after.p, after.n);
	mem_free(after.p);
	return result;
}

enum passwd_change passwd_file_change(const char *path, struct slice user, const char *hash, struct passwd_error *error)
{
	enum passwd_change result = PASSWD_FAILED;
	struct place place;

	if (place_open(&place, path, error))
		result = change_at(&place, user, hash, error);
	if (place.folder >= 0)
		close(place.folder); /* and unlocks */
	return result;
}
