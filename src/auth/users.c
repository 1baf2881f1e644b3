/* An htpasswd file, read strictly into an immutable snapshot.
 *
 * One copy of the text is cut into strings in place; an open-addressed table under the process's SipHash finds a name
 * without telling strangers' names apart by time. Every wrong line is reported, not only the first, and one wrong line
 * refuses the whole file: a user who silently is missing is found out on the phone. */
#include "auth/hash_priv.h"

#include "adit/auth/auth.h"
#include "adit/base/lru.h"
#include "adit/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	USERS_MAGIC = OBJ_MAGIC('u', 's', 'r', 's'),
	USERS_FILE_MAX_BYTES = 64 * 1024 * 1024,
	REPORTS_MAX = 20,
	FIRST_USERS = 64,
};

struct users {
	uint32_t magic;
	_Atomic unsigned refs;
	char *text;
	size_t text_n;
	struct user *list;
	size_t count, room;
	uint32_t *index; /* 1 + place in list; 0: free */
	size_t index_n; /* a power of two, at least twice the count */
};

struct report {
	users_report_fn *fn;
	void *ctx;
	size_t wrong;
};

static void complain(struct report *r, unsigned line, const char *fmt, ...) ADIT_PRINTF(3, 4);
static void complain(struct report *r, unsigned line, const char *fmt, ...)
{
	char message[512];
	va_list ap;

	if (r->wrong++ >= REPORTS_MAX)
		return;
	va_start(ap, fmt);
	vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	r->fn(r->ctx, line, message);
}

static void complain_of_the_rest(struct report *r)
{
	char message[64];

	if (r->wrong <= REPORTS_MAX)
		return;
	snprintf(message, sizeof(message), "%zu more lines are wrong", r->wrong - REPORTS_MAX);
	r->fn(r->ctx, 0, message);
}

static struct users *users_make(struct slice text)
{
	struct users *users = mem_alloc(sizeof(*users));

	if (!users)
		return NULL;
	OBJ_INIT(users, USERS_MAGIC);
	atomic_init(&users->refs, 1);
	users->text = mem_strndup(text.p, text.n);
	users->text_n = text.n;
	if (!users->text) {
		mem_free(users);
		return NULL;
	}
	return users;
}

struct users *users_ref(struct users *users)
{
	OBJ_CHECK(users, USERS_MAGIC);
	atomic_fetch_add(&users->refs, 1);
	return users;
}

void users_unref(struct users *users)
{
	if (!users)
		return;
	OBJ_CHECK(users, USERS_MAGIC);
	if (atomic_fetch_sub(&users->refs, 1) != 1)
		return;
	OBJ_FINI(users);
	mem_burn(users->text, users->text_n);
	mem_free(users->text);
	mem_free(users->list);
	mem_free(users->index);
	mem_free(users);
}

/* The place in the index that holds the name, or the free one where it belongs. */
static uint32_t *index_place(const struct users *users, struct slice name)
{
	size_t mask = users->index_n - 1, at = (size_t)lru_hash(name.p, name.n) & mask;

	while (users->index[at] != 0 && !slice_eq(slice_of(users->list[users->index[at] - 1].name), name))
		at = (at + 1) & mask;
	return &users->index[at];
}

static bool index_grow(struct users *users)
{
	uint32_t *old = users->index;

	if (users->count * 2 < users->index_n)
		return true;
	users->index = mem_array(users->index_n ? users->index_n * 2 : FIRST_USERS * (size_t)2, sizeof(*users->index));
	if (!users->index) {
		users->index = old;
		return false;
	}
	users->index_n = users->index_n ? users->index_n * 2 : FIRST_USERS * (size_t)2;
	mem_free(old);
	for (size_t i = 0; i < users->count; i++)
		*index_place(users, slice_of(users->list[i].name)) = (uint32_t)(i + 1);
	return true;
}

static bool list_grow(struct users *users)
{
	size_t room = users->room ? users->room * 2 : FIRST_USERS;
	struct user *list;

	if (users->count < users->room)
		return true;
	list = mem_resize(users->list, room, sizeof(*list));
	if (!list)
		return false;
	users->list = list;
	users->room = room;
	return true;
}

const char *users_name_fault(struct slice name)
{
	if (name.n == 0)
		return "the user name is empty";
	if (name.n > CREDENTIALS_USER_MAX)
		return "the user name is longer than 255 bytes";
	for (size_t i = 0; i < name.n; i++)
		if ((unsigned char)name.p[i] < 0x20 || name.p[i] == 0x7f)
			return "the user name has a control character";
	if (memchr(name.p, ':', name.n))
		return "the user name has a colon, which ends it in the file and in a login";
	if (name.p[0] == '#')
		return "the user name begins with '#', which makes its line a comment";
	if (name.p[0] == ' ' || name.p[name.n - 1] == ' ')
		return "the user name begins or ends with a space";
	return NULL;
}

/* `line` lies in users->text and may be written one byte past its end. False only when out of memory. */
static bool read_line(struct users *users, char *line, size_t n, unsigned number, struct report *r)
{
	char *colon = memchr(line, ':', n), *hash;
	struct user user = { .name = line, .line = number };
	const char *fault;
	uint32_t *place;
	size_t hash_n;

	if (!colon) {
		complain(r, number, "the line is not NAME:HASH: it has no colon");
		return true;
	}
	fault = users_name_fault((struct slice){ line, (size_t)(colon - line) });
	if (fault) {
		complain(r, number, "%s", fault);
		return true;
	}
	hash = colon + 1;
	hash_n = n - (size_t)(hash - line);
	if (hash_n > 0 && memchr(hash, ':', hash_n)) {
		complain(r, number, "the line has a field after the hash; write NAME:HASH and nothing more");
		return true;
	}
	fault = hash_recognise((struct slice){ hash, hash_n }, &user);
	if (fault) {
		complain(r, number, "%s", fault);
		return true;
	}
	*colon = '\0';
	hash[hash_n] = '\0';
	user.hash = hash;
	if (!list_grow(users) || !index_grow(users))
		return false;
	place = index_place(users, slice_of(user.name));
	if (*place != 0) {
		complain(r, number, "the user of this line has one already, line %u; remove one of them",
			users->list[*place - 1].line);
		return true;
	}
	users->list[users->count++] = user;
	*place = (uint32_t)users->count;
	return true;
}

static bool is_blank(const char *line, size_t n)
{
	return slice_trim((struct slice){ line, n }).n == 0;
}

static bool read_lines(struct users *users, struct report *r)
{
	static const struct slice bom = { "\xef\xbb\xbf", 3 };
	char *at = users->text, *end = at + users->text_n;
	unsigned number = 0;

	if (users->text_n >= bom.n && memcmp(at, bom.p, bom.n) == 0)
		at += bom.n;
	while (at < end) {
		char *newline = memchr(at, '\n', (size_t)(end - at)), *next = newline ? newline + 1 : end;
		size_t n = (size_t)((newline ? newline : end) - at);

		number++;
		if (n > 0 && at[n - 1] == '\r')
			n--;
		if (!is_blank(at, n) && at[0] != '#' && !read_line(users, at, n, number, r))
			return false;
		at = next;
	}
	return true;
}

struct users *users_parse(struct slice text, users_report_fn *report, void *ctx)
{
	struct report r = { .fn = report, .ctx = ctx };
	struct users *users = NULL;

	if (text.n > USERS_FILE_MAX_BYTES) {
		complain(&r, 0, "the file is larger than 64 MiB");
		return NULL;
	}
	users = users_make(text);
	if (!users || !read_lines(users, &r)) {
		complain(&r, 0, "out of memory while reading the file");
		goto fail;
	}
	complain_of_the_rest(&r);
	if (r.wrong > 0)
		goto fail;
	return users;
fail:
	users_unref(users);
	return NULL;
}

/* Reads until the end, which may come earlier or later than fstat said. NULL with errno. */
static char *read_all(int fd, size_t *n)
{
	size_t room = 0, used = 0;
	char *text = NULL;

	for (;;) {
		ssize_t got;

		if (used == room) {
			char *bigger;

			room = room ? room * 2 : (size_t)64 * 1024;
			bigger = mem_alloc(room); /* not mem_resize: what it leaves behind is not burned */
			if (bigger && used > 0)
				memcpy(bigger, text, used);
			mem_burn(text, used);
			mem_free(text);
			text = bigger;
			if (!text) {
				errno = ENOMEM;
				return NULL;
			}
		}
		got = read(fd, text + used, room - used);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 || used > USERS_FILE_MAX_BYTES) {
			int saved = got < 0 ? errno : EFBIG;

			mem_burn(text, used);
			mem_free(text);
			errno = saved;
			return NULL;
		}
		if (got == 0)
			break;
		used += (size_t)got;
	}
	*n = used;
	return text;
}

struct users *users_load(const char *path, users_report_fn *report, void *ctx)
{
	struct report r = { .fn = report, .ctx = ctx };
	/* O_NONBLOCK: a FIFO put in the file's place must not hold up the reload */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct users *users = NULL;
	struct stat st;
	char *text;
	size_t n = 0;

	if (fd < 0) {
		complain(&r, 0, "the file can not be opened: %s", strerrordesc_np(errno));
		return NULL;
	}
	if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
		complain(&r, 0, "this is not a regular file");
		goto out;
	}
	text = read_all(fd, &n);
	if (!text) {
		complain(&r, 0, "the file can not be read: %s", strerrordesc_np(errno));
		goto out;
	}
	users = users_parse((struct slice){ text, n }, report, ctx);
	mem_burn(text, n);
	mem_free(text);
out:
	close(fd);
	return users;
}

size_t users_count(const struct users *users)
{
	OBJ_CHECK(users, USERS_MAGIC);
	return users->count;
}

const struct user *users_at(const struct users *users, size_t i)
{
	OBJ_CHECK(users, USERS_MAGIC);
	ADIT_ASSERT(i < users->count);
	return &users->list[i];
}

const struct user *users_find(const struct users *users, struct slice name)
{
	uint32_t place;

	OBJ_CHECK(users, USERS_MAGIC);
	if (users->count == 0)
		return NULL;
	place = *index_place(users, name);
	return place ? &users->list[place - 1] : NULL;
}
