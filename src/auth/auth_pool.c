/* The threads that hash, and the two lines before them.
 *
 * Known users (a login of this user from this prefix succeeded within 30 days) have a line of their own and half the
 * threads to themselves; those never take a stranger's hash, for a hash once begun can not be put aside. The other half
 * serves strangers first and helps out when there are none. A single thread takes from both lines in turn, so that at
 * most one stranger's hash stands before a known user.
 * Both lines share one bound, of which each is sure of half: the one that has more gives way. */
#include "auth/auth_priv.h"

#include "adit/base/mem.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

enum { POOL_NICE = 10 };

static struct auth_task *task_of(struct fair_item *item, enum auth_lane lane)
{
	return item ? OBJ_OF(item - lane, struct auth_task, waiting) : NULL;
}

/* --- lines; pool_lock is held ---------------------------------------------------------------------------------- */

static struct auth_task *pop(struct auth *auth, enum auth_lane lane)
{
	return task_of(fair_pop(auth->lane[lane]), lane);
}

static struct auth_task *pop_for(struct auth *auth, enum auth_serves serves)
{
	enum auth_lane first = AUTH_LANE_STRANGERS;
	struct auth_task *task;

	if (serves == AUTH_SERVES_KNOWN)
		return pop(auth, AUTH_LANE_KNOWN);
	if (serves == AUTH_SERVES_IN_TURN && !auth->last_was_known)
		first = AUTH_LANE_KNOWN;
	task = pop(auth, first);
	if (task) {
		auth->last_was_known = first == AUTH_LANE_KNOWN;
		return task;
	}
	task = pop(auth, first == AUTH_LANE_KNOWN ? AUTH_LANE_STRANGERS : AUTH_LANE_KNOWN);
	auth->last_was_known = task && first != AUTH_LANE_KNOWN;
	return task;
}

/* Who waits no longer, now that there is one too many. */
static struct auth_task *evict(struct auth *auth)
{
	size_t known = fair_count(auth->lane[AUTH_LANE_KNOWN]), strangers = fair_count(auth->lane[AUTH_LANE_STRANGERS]);
	enum auth_lane lane = strangers > auth->places / 2 ? AUTH_LANE_STRANGERS : AUTH_LANE_KNOWN;
	struct fair_item *item;

	if (known + strangers <= auth->places)
		return NULL;
	item = fair_longest(auth->lane[lane]);
	fair_remove(auth->lane[lane], item);
	return task_of(item, lane);
}

static void wake(struct auth *auth, enum auth_lane lane)
{
	pthread_cond_signal(&auth->for_any);
	if (lane == AUTH_LANE_KNOWN)
		pthread_cond_signal(&auth->for_known);
}

/* --- what auth.c calls ----------------------------------------------------------------------------------------- */

enum reason auth_pool_submit(struct auth *auth, struct auth_task *task, bool known, struct auth_task **victim)
{
	enum auth_lane lane = known ? AUTH_LANE_KNOWN : AUTH_LANE_STRANGERS;
	enum reason result = REASON_OK;

	*victim = NULL;
	pthread_mutex_lock(&auth->pool_lock);
	if (auth->stopping) {
		result = REASON_AUTH_ERROR;
	} else if (!fair_push(auth->lane[lane], &task->waiting[lane], &task->prefix)) {
		result = REASON_NO_MEMORY;
	} else {
		*victim = evict(auth);
		if (*victim == task) {
			*victim = NULL;
			result = REASON_AUTH_BUSY;
		} else {
			wake(auth, lane);
		}
	}
	pthread_mutex_unlock(&auth->pool_lock);
	return result;
}

void auth_pool_promote(struct auth *auth, struct auth_task *task, const struct cidr *prefix)
{
	pthread_mutex_lock(&auth->pool_lock);
	/* The new place first: without memory for it the old one is kept. */
	if (task->waiting[AUTH_LANE_STRANGERS].host &&
		fair_push(auth->lane[AUTH_LANE_KNOWN], &task->waiting[AUTH_LANE_KNOWN], prefix)) {
		fair_remove(auth->lane[AUTH_LANE_STRANGERS], &task->waiting[AUTH_LANE_STRANGERS]);
		wake(auth, AUTH_LANE_KNOWN);
	}
	pthread_mutex_unlock(&auth->pool_lock);
}

bool auth_pool_withdraw(struct auth *auth, struct auth_task *task)
{
	bool was_waiting = false;

	pthread_mutex_lock(&auth->pool_lock);
	for (unsigned lane = 0; lane < AUTH_LANE_COUNT; lane++) {
		if (task->waiting[lane].host) {
			fair_remove(auth->lane[lane], &task->waiting[lane]);
			was_waiting = true;
		}
	}
	pthread_mutex_unlock(&auth->pool_lock);
	return was_waiting;
}

size_t auth_pool_waiting(struct auth *auth, enum auth_lane lane)
{
	size_t n;

	pthread_mutex_lock(&auth->pool_lock);
	n = fair_count(auth->lane[lane]);
	pthread_mutex_unlock(&auth->pool_lock);
	return n;
}

void auth_pool_resize(struct auth *auth, unsigned places)
{
	pthread_mutex_lock(&auth->pool_lock);
	auth->places = places;
	pthread_mutex_unlock(&auth->pool_lock);
}

/* --- threads --------------------------------------------------------------------------------------------------- */

static struct auth_task *take(struct auth *auth, enum auth_serves serves)
{
	struct auth_task *task = NULL;

	pthread_mutex_lock(&auth->pool_lock);
	while (!auth->stopping && !(task = pop_for(auth, serves)))
		pthread_cond_wait(serves == AUTH_SERVES_KNOWN ? &auth->for_known : &auth->for_any, &auth->pool_lock);
	pthread_mutex_unlock(&auth->pool_lock);
	return task;
}

static void *pool_thread(void *ctx)
{
	struct auth_thread *self = ctx;
	struct auth *auth = self->auth;
	struct auth_task *task;

	OBJ_CHECK(auth, AUTH_MAGIC);
	/* On Linux this is the thread's own; without it hashing would crowd out the event loops. */
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), POOL_NICE);
	while ((task = take(auth, self->serves)))
		if (auth_task_weed(auth, task))
			auth_task_run(auth, task);
	return NULL;
}

static unsigned half_the_cores(void)
{
	long cores = sysconf(_SC_NPROCESSORS_ONLN);

	return cores > 3 ? (unsigned)cores / 2 : 1;
}

static bool start_one(struct auth *auth, struct auth_thread *thread)
{
	sigset_t all, before;
	int failed;

	thread->auth = auth;
	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failed = pthread_create(&thread->id, NULL, pool_thread, thread);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!failed)
		(void)pthread_setname_np(thread->id, "adit-auth");
	return !failed;
}

bool auth_pool_init(struct auth *auth, const struct conf *conf)
{
	pthread_mutex_init(&auth->pool_lock, NULL);
	pthread_cond_init(&auth->for_known, NULL);
	pthread_cond_init(&auth->for_any, NULL);
	auth->places = conf->auth.queue;
	auth->lane[AUTH_LANE_KNOWN] = fair_new();
	auth->lane[AUTH_LANE_STRANGERS] = fair_new();
	return auth->lane[AUTH_LANE_KNOWN] && auth->lane[AUTH_LANE_STRANGERS];
}

bool auth_pool_start(struct auth *auth, unsigned threads)
{
	threads = threads > 0 ? threads : half_the_cores();
	auth->threads = mem_array(threads, sizeof(*auth->threads));
	if (!auth->threads)
		return false;
	for (unsigned i = 0; i < threads; i++) {
		if (threads == 1)
			auth->threads[i].serves = AUTH_SERVES_IN_TURN;
		else
			auth->threads[i].serves = i < threads / 2 ? AUTH_SERVES_KNOWN : AUTH_SERVES_STRANGERS_FIRST;
		if (!start_one(auth, &auth->threads[i])) {
			auth_pool_stop(auth);
			return false;
		}
		auth->thread_count++;
	}
	return true;
}

void auth_pool_stop(struct auth *auth)
{
	struct auth_task *task;

	pthread_mutex_lock(&auth->pool_lock);
	auth->stopping = true;
	pthread_cond_broadcast(&auth->for_known);
	pthread_cond_broadcast(&auth->for_any);
	pthread_mutex_unlock(&auth->pool_lock);
	while (auth->thread_count > 0)
		pthread_join(auth->threads[--auth->thread_count].id, NULL);

	do {
		pthread_mutex_lock(&auth->pool_lock);
		task = pop(auth, AUTH_LANE_KNOWN);
		if (!task)
			task = pop(auth, AUTH_LANE_STRANGERS);
		pthread_mutex_unlock(&auth->pool_lock);
		if (task)
			auth_task_dismiss(task, REASON_AUTH_ERROR);
	} while (task);
}

void auth_pool_fini(struct auth *auth)
{
	fair_free(auth->lane[AUTH_LANE_KNOWN]);
	fair_free(auth->lane[AUTH_LANE_STRANGERS]);
	mem_free(auth->threads);
	pthread_cond_destroy(&auth->for_known);
	pthread_cond_destroy(&auth->for_any);
	pthread_mutex_destroy(&auth->pool_lock);
}
