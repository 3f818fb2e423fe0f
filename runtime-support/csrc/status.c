/* Messages of the statuses, from the one list in onnxc.h. */
#include "onnxc_support.h"

const char *onnxc_status_message(int status) {
    switch (status) {
#define STATUS_CASE(name, value, message) \
    case name:                            \
        return message;
        ONNXC_STATUSES(STATUS_CASE)
#undef STATUS_CASE
    default:
        return "unknown status";
    }
}
