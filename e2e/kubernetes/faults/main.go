// The faults of the control plane that need a program in its network namespace.
//
//	faults unavailable ADDRESS CERTIFICATE KEY   answers 503 to everything, in the API server's place
//	faults full on|off                           makes etcd refuse writes as it does when its quota is used up
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// As an API server says it when a load balancer or itself has no capacity left.
const unavailable = `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"the lab's fault answers for the API server","reason":"ServiceUnavailable","code":503}`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 4 && arguments[0] == "unavailable":
		return http.ListenAndServeTLS(arguments[1], arguments[2], arguments[3], http.HandlerFunc(refuse))
	case len(arguments) == 2 && arguments[0] == "full" && arguments[1] == "on":
		return alarm("ACTIVATE")
	case len(arguments) == 2 && arguments[0] == "full" && arguments[1] == "off":
		return alarm("DEACTIVATE")
	}
	return fmt.Errorf("no such fault: %q", arguments)
}

func refuse(answer http.ResponseWriter, _ *http.Request) {
	answer.Header().Set("Content-Type", "application/json")
	answer.WriteHeader(http.StatusServiceUnavailable)
	fmt.Fprint(answer, unavailable)
}

// The alarm NOSPACE is etcd's own: raised by the quota, kept until an administrator lowers it.
func alarm(action string) error {
	client := http.Client{Timeout: 10 * time.Second}
	body := fmt.Sprintf(`{"action":%q,"memberID":"0","alarm":"NOSPACE"}`, action)
	answer, err := client.Post("http://127.0.0.1:2379/v3/maintenance/alarm", "application/json", strings.NewReader(body))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	said, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("etcd answered %s: %s", answer.Status, said)
	}
	return err
}
