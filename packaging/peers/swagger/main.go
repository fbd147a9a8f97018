// Command swagger calls the image API at a Unix socket by the client that go-swagger generates of its description: it
// runs a container on a squashfs, stops it, and removes what it made. Each answer is printed as a line of JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/go-openapi/runtime/client"

	imageapi "nekko/peers/swagger/client"
	"nekko/peers/swagger/client/attachments"
	"nekko/peers/swagger/client/containers"
	"nekko/peers/swagger/client/mounts"
	"nekko/peers/swagger/models"
)

// must gives an answer, which is printed.
func must[T any](answer T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	line, err := json.Marshal(answer)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
	return answer
}

func to[T any](value T) *T { return &value }

func main() {
	socket, image := os.Args[1], os.Args[2]
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	over := client.NewWithClient("nekko", imageapi.DefaultBasePath, []string{"http"},
		&http.Client{Transport: &http.Transport{DialContext: dial}})
	api := imageapi.New(over, nil)

	attached := must(api.Attachments.Attach(attachments.NewAttachParams().WithAttach(&models.Attach{
		Kind: "loopback", Loopback: &models.AttachLoopback{Base: to("root"), Path: &image},
	}))).Payload
	mounted := must(api.Mounts.Mount(mounts.NewMountParams().WithMount(&models.Mount{
		Kind: "attach",
		Attach: &models.MountAttach{
			FsType: to("squashfs"), Attach: &models.Attach{ID: attached.ID}, MountOptions: []string{"ro"},
		},
	}))).Payload
	must(api.Containers.CreateContainer(containers.NewCreateContainerParams().WithContainer(&models.Container{
		Name: "go", Command: "/no/such/program", State: to("running"),
		Mount: &models.Mount{Kind: "overlay", Overlay: &models.MountOverlay{Lower: []*models.Mount{{ID: mounted.ID}}}},
	})))
	must(api.Containers.ListContainers(containers.NewListContainersParams().WithState(to("dead"))))
	must(api.Containers.SetContainerState(containers.NewSetContainerStateParams().WithName(to("go")).WithState("exited")))

	_, err := api.Mounts.DeleteMount(mounts.NewDeleteMountParams().WithID(*mounted.ID))
	var refused *mounts.DeleteMountDefault
	if !errors.As(err, &refused) {
		log.Fatalf("a mount that is used was removed, or: %v", err)
	}
	must(refused.Payload, nil)

	must(api.Containers.DeleteContainer(containers.NewDeleteContainerParams().WithName(to("go"))))
	must(api.Mounts.DeleteMount(mounts.NewDeleteMountParams().WithID(*mounted.ID)))
	must(api.Attachments.DeleteAttach(attachments.NewDeleteAttachParams().WithID(*attached.ID)))
}
