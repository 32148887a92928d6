/* Names, life and reading of flight records. */
#include "flight.h"
#include "tb_alloc.h"
#include <string.h>
#include <unistd.h>

char *tb_flight_prefix(const char *journal)
{
    size_t n = strlen(journal), cut = strlen(".journal");
    return tb_asprintf("%.*s.flight", (int)(n > cut ? n - cut : n), journal);
}

void tb_flight_remove(const char *journal, int ranks)
{
    char *prefix = tb_flight_prefix(journal);
    for (int r = 0; prefix && r < ranks; r++) {
        char *path = tb_asprintf("%s.%d", prefix, r);
        if (path) unlink(path);
        tb_free(path);
    }
    tb_free(prefix);
}

bool tb_flight_tell(const char *prefix, tb_text *report, char *sentence, size_t bytes, tb_culprit *culprit)
{
    *sentence = '\0';
    if (tb_comm_read_flight(prefix, report, culprit) != TB_OK) return false;
    if (culprit->rank < 0) return true;
    int n = culprit->other < 0 ? 0 : snprintf(sentence, bytes, "rank %d or ", culprit->other);
    sentence += n;
    bytes -= (size_t)n;
    if (!culprit->doing[0])
        snprintf(sentence, bytes, "rank %d was in no communication", culprit->rank);
    else if (culprit->inside)
        snprintf(sentence, bytes, "rank %d was in %s", culprit->rank, culprit->doing);
    else
        snprintf(sentence, bytes, "rank %d was behind %s", culprit->rank, culprit->doing);
    return true;
}
