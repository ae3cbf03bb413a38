/* Looks names up by the C library that it is linked with.

   ask NAME            prints its addresses, then what http://NAME/ says
   ask PREFIX DOMAIN   until its input ends: looks PREFIX-1.DOMAIN up, PREFIX-2.DOMAIN, and so on,
                       and prints for each one when that began and ended, in milliseconds, the
                       name, and an address, or "!" and the error */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static const struct addrinfo hints = { .ai_socktype = SOCK_STREAM };

static const char *numeric(const struct addrinfo *address)
{
	static char text[NI_MAXHOST];
	int error = getnameinfo(address->ai_addr, address->ai_addrlen, text, sizeof text, 0, 0,
				NI_NUMERICHOST);
	return error ? gai_strerror(error) : text;
}

static int visit(const struct addrinfo *address, const char *name)
{
	char text[4096];
	ssize_t count;
	int flow = socket(address->ai_family, SOCK_STREAM, 0);
	if (connect(flow, address->ai_addr, address->ai_addrlen))
		return 1;
	snprintf(text, sizeof text, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", name);
	if (write(flow, text, strlen(text)) < 0)
		return 1;
	while ((count = read(flow, text, sizeof text)) > 0)
		fwrite(text, 1, count, stdout);
	return count != 0;
}

static int once(const char *name)
{
	struct addrinfo *first, *address;
	int error = getaddrinfo(name, "80", &hints, &first);
	if (error) {
		fprintf(stderr, "%s: %s\n", name, gai_strerror(error));
		return 1;
	}
	for (address = first; address; address = address->ai_next)
		puts(numeric(address));
	for (address = first; address; address = address->ai_next)
		if (!visit(address, name))
			return 0;
	perror(name);
	return 1;
}

static long long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_REALTIME, &time);
	return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

static void stream(const char *prefix, const char *domain)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };
	for (int number = 1; poll(&input, 1, 5) == 0; number++) {
		char name[256];
		struct addrinfo *first;
		long long begin = now();
		int error;
		snprintf(name, sizeof name, "%s-%d.%s", prefix, number, domain);
		error = getaddrinfo(name, "80", &hints, &first);
		printf("%lld %lld %s %s%s\n", begin, now(), name, error ? "! " : "",
		       error ? gai_strerror(error) : numeric(first));
		fflush(stdout);
		if (!error)
			freeaddrinfo(first);
	}
}

int main(int count, char **arguments)
{
	if (count == 2)
		return once(arguments[1]);
	stream(arguments[1], arguments[2]);
	return 0;
}
