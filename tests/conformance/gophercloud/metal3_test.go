// Package metal3 takes a node through what Metal3's baremetal-operator asks of Ironic, by the library that it uses.
//
// Calls that the packaged gophercloud has no function for are sent by its generic client, as newer ones do.
package metal3

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud"
	"github.com/gophercloud/gophercloud/openstack/baremetal/apiversions"
	"github.com/gophercloud/gophercloud/openstack/baremetal/noauth"
	"github.com/gophercloud/gophercloud/openstack/baremetal/v1/allocations"
	"github.com/gophercloud/gophercloud/openstack/baremetal/v1/drivers"
	"github.com/gophercloud/gophercloud/openstack/baremetal/v1/nodes"
	"github.com/gophercloud/gophercloud/openstack/baremetal/v1/ports"
	"github.com/gophercloud/gophercloud/pagination"
)

const deadline = 2 * time.Minute

type object = map[string]interface{}

func client(t *testing.T, microversion string) *gophercloud.ServiceClient {
	found, err := noauth.NewBareMetalNoAuth(noauth.EndpointOpts{IronicEndpoint: os.Getenv("IRONIC_ENDPOINT")})
	if err != nil {
		t.Fatal(err)
	}
	found.Microversion = microversion
	return found
}

func good(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got, want interface{}) {
	t.Helper()
	if got != want {
		t.Fatalf("%s is %v instead of %v", what, got, want)
	}
}

// requested is what the generic client needs to know; it leaves the version to its caller.
func requested(c *gophercloud.ServiceClient, body interface{}, status int) *gophercloud.RequestOpts {
	return &gophercloud.RequestOpts{
		OkCodes:     []int{status},
		JSONBody:    body,
		MoreHeaders: map[string]string{"X-OpenStack-Ironic-API-Version": c.Microversion},
	}
}

// call sends what the library has no function for, and returns the decoded body.
func call(t *testing.T, c *gophercloud.ServiceClient, method, path string, body interface{}, status int) object {
	t.Helper()
	var answer object
	options := requested(c, body, status)
	if status == http.StatusOK {
		options.JSONResponse = &answer
	}
	_, err := c.Request(method, c.ServiceURL(path), options)
	good(t, err)
	return answer
}

// refused sends what has to be answered with a status of failure.
func refused(t *testing.T, c *gophercloud.ServiceClient, method, path string, body interface{}, status int) {
	t.Helper()
	answer, err := c.Request(method, c.ServiceURL(path), requested(c, body, status))
	good(t, err)
	answer.Body.Close()
}

func create(t *testing.T, c *gophercloud.ServiceClient, name string) *nodes.Node {
	node, err := nodes.Create(c, nodes.CreateOpts{
		Driver:          "fake-hardware",
		Name:            name,
		DriverInfo:      object{"deploy_kernel": "http://127.0.0.1/kernel", "deploy_ramdisk": "http://127.0.0.1/ramdisk"},
		Properties:      object{"capabilities": "boot_mode:uefi"},
		DeployInterface: "fake",
	}).Extract()
	good(t, err)
	t.Cleanup(func() {
		call(t, c, "PUT", "nodes/"+node.UUID+"/maintenance", object{}, http.StatusAccepted)
		nodes.Delete(c, node.UUID)
	})
	return node
}

func until(t *testing.T, c *gophercloud.ServiceClient, uuid, state string) *nodes.Node {
	t.Helper()
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		node, err := nodes.Get(c, uuid).Extract()
		good(t, err)
		if node.ProvisionState == state {
			return node
		}
		if node.LastError != "" {
			t.Fatalf("%s: %s", node.ProvisionState, node.LastError)
		}
	}
	t.Fatalf("the node did not become %s", state)
	return nil
}

func provision(t *testing.T, c *gophercloud.ServiceClient, uuid string, target nodes.TargetProvisionState, state string) *nodes.Node {
	t.Helper()
	good(t, nodes.ChangeProvisionState(c, uuid, nodes.ProvisionStateOpts{Target: target}).ExtractErr())
	return until(t, c, uuid, state)
}

// The operator takes the service for ready when there are drivers, and picks the newest version of those that it knows.
func TestReadiness(t *testing.T) {
	for _, version := range []string{"1.89", "1.93", "1.95", "1.109", "1.110"} {
		found := 0
		err := drivers.ListDrivers(client(t, version), drivers.ListDriversOpts{Detail: false}).EachPage(func(page pagination.Page) (bool, error) {
			list, err := drivers.ExtractDrivers(page)
			found += len(list)
			return true, err
		})
		good(t, err)
		if found == 0 {
			t.Fatalf("no driver at %s", version)
		}
	}
	root := client(t, "1.89")
	root.Endpoint = strings.TrimSuffix(root.Endpoint, "v1/")
	versions, err := apiversions.Get(root, "v1").Extract()
	good(t, err)
	equal(t, "the version", versions.ID, "v1")
}

func TestDriver(t *testing.T) {
	c := client(t, "1.89")
	driver, err := drivers.GetDriverDetails(c, "fake-hardware").Extract()
	good(t, err)
	equal(t, "the name", driver.Name, "fake-hardware")
	_, err = drivers.GetDriverProperties(c, "fake-hardware").Extract()
	good(t, err)
}

// Registering a host: looked for by name and by UUID, made, patched, validated, its ports made, managed.
func TestRegistration(t *testing.T) {
	c := client(t, "1.95")
	refused(t, c, "GET", "nodes/metal3~host-0", nil, http.StatusNotFound)
	node := create(t, c, "metal3~host-0")
	equal(t, "the state", node.ProvisionState, "enroll")
	again, err := nodes.Get(c, "metal3~host-0").Extract()
	good(t, err)
	equal(t, "the UUID", again.UUID, node.UUID)

	page, err := ports.List(c, ports.ListOpts{Address: "52:54:00:0a:0b:0c", Fields: []string{"node_uuid"}}).AllPages()
	good(t, err)
	found, err := ports.ExtractPorts(page)
	good(t, err)
	equal(t, "the number of ports", len(found), 0)
	enabled := true
	port, err := ports.Create(c, ports.CreateOpts{NodeUUID: node.UUID, Address: "52:54:00:0A:0B:0C", PXEEnabled: &enabled}).Extract()
	good(t, err)
	equal(t, "the address", port.Address, "52:54:00:0a:0b:0c")
	page, err = ports.List(c, ports.ListOpts{NodeUUID: node.UUID, Fields: []string{"node_uuid", "address"}}).AllPages()
	good(t, err)
	found, err = ports.ExtractPorts(page)
	good(t, err)
	equal(t, "the owner of the port", found[0].NodeUUID, node.UUID)

	updated, err := nodes.Update(c, node.UUID, nodes.UpdateOpts{
		nodes.UpdateOperation{Op: nodes.AddOp, Path: "/properties/root_device", Value: object{"name": "s== /dev/sda"}},
		nodes.UpdateOperation{Op: nodes.ReplaceOp, Path: "/driver_info/deploy_kernel", Value: "http://127.0.0.1/other"},
		nodes.UpdateOperation{Op: nodes.AddOp, Path: "/instance_info/capabilities", Value: object{"boot_mode": "uefi"}},
		nodes.UpdateOperation{Op: nodes.AddOp, Path: "/automated_clean", Value: false},
		nodes.UpdateOperation{Op: nodes.AddOp, Path: "/disable_power_off", Value: true},
		nodes.UpdateOperation{Op: nodes.RemoveOp, Path: "/disable_power_off"},
	}).Extract()
	good(t, err)
	equal(t, "the kernel", updated.DriverInfo["deploy_kernel"], "http://127.0.0.1/other")
	_, err = nodes.Update(c, node.UUID, nodes.UpdateOpts{nodes.UpdateOperation{Op: nodes.RemoveOp, Path: "/extra/nothing"}}).Extract()
	if _, ok := err.(gophercloud.ErrDefault400); !ok {
		t.Fatalf("removing what is not there: %v", err)
	}
	validation, err := nodes.Validate(c, node.UUID).Extract()
	good(t, err)
	equal(t, "the power interface", validation.Power.Result, true)
	provision(t, c, node.UUID, nodes.TargetManage, "manageable")
}

// What is known of the hardware: inspection, inventory, BIOS settings, firmware, virtual media, subscriptions.
func TestHardware(t *testing.T) {
	c := client(t, "1.109")
	uuid := create(t, c, "metal3~host-1").UUID
	refused(t, c, "GET", "nodes/"+uuid+"/inventory", nil, http.StatusNotFound)
	provision(t, c, uuid, nodes.TargetManage, "manageable")
	provision(t, c, uuid, nodes.TargetInspect, "manageable")
	bios := call(t, c, "GET", "nodes/"+uuid+"/bios?detail=True", nil, http.StatusOK)
	if _, ok := bios["bios"].([]interface{}); !ok {
		t.Fatalf("no BIOS settings: %v", bios)
	}
	firmware := call(t, c, "GET", "nodes/"+uuid+"/firmware", nil, http.StatusOK)
	if _, ok := firmware["firmware"].([]interface{}); !ok {
		t.Fatalf("no firmware: %v", firmware)
	}
	image := object{"device_type": "cdrom", "image_url": "http://127.0.0.1/image.iso"}
	call(t, c, "POST", "nodes/"+uuid+"/vmedia", image, http.StatusNoContent)
	call(t, c, "DELETE", "nodes/"+uuid+"/vmedia?device_types=cdrom", nil, http.StatusNoContent)
	subscription := object{"Destination": "https://127.0.0.1/events", "Context": "any", "Protocol": "Redfish"}
	refused(t, c, "POST", "nodes/"+uuid+"/vendor_passthru?method=create_subscription", subscription, http.StatusBadRequest)
	refused(t, c, "DELETE", "nodes/"+uuid+"/vendor_passthru?method=delete_subscription", object{"id": "1"}, http.StatusBadRequest)
	size := 100
	good(t, nodes.SetRAIDConfig(c, uuid, nodes.RAIDConfigOpts{
		LogicalDisks: []nodes.LogicalDisk{{SizeGB: &size, RAIDLevel: nodes.RAID1, VolumeName: "root"}, {RAIDLevel: nodes.RAID0}},
	}).ExtractErr())
	states := call(t, c, "GET", "nodes/"+uuid+"/states", nil, http.StatusOK)
	equal(t, "the number of logical disks", len(states["target_raid_config"].(object)["logical_disks"].([]interface{})), 2)
	steps := []nodes.CleanStep{{
		Interface: "bios", Step: "apply_configuration",
		Args: object{"settings": []object{{"name": "ProcVirtualization", "value": "Enabled"}}},
	}}
	good(t, nodes.ChangeProvisionState(c, uuid, nodes.ProvisionStateOpts{Target: nodes.TargetClean, CleanSteps: steps}).ExtractErr())
	until(t, c, uuid, "manageable")
	bios = call(t, c, "GET", "nodes/"+uuid+"/bios/ProcVirtualization", nil, http.StatusOK)
	equal(t, "the setting", bios["ProcVirtualization"].(object)["value"], "Enabled")
}

// From available to active and back: image settings, config drive, power, service, tear-down.
func TestProvisioning(t *testing.T) {
	c := client(t, "1.109")
	uuid := create(t, c, "metal3~host-2").UUID
	provision(t, c, uuid, nodes.TargetManage, "manageable")
	provision(t, c, uuid, nodes.TargetProvide, "available")
	_, err := nodes.Update(c, uuid, nodes.UpdateOpts{
		nodes.UpdateOperation{Op: nodes.AddOp, Path: "/instance_info/image_source", Value: "http://127.0.0.1/image.qcow2"},
		nodes.UpdateOperation{Op: nodes.AddOp, Path: "/instance_info/image_os_hash_algo", Value: "sha256"},
		nodes.UpdateOperation{Op: nodes.AddOp, Path: "/instance_info/image_os_hash_value", Value: fmt.Sprintf("%064d", 0)},
		nodes.UpdateOperation{Op: nodes.AddOp, Path: "/instance_info/image_disk_format", Value: "qcow2"},
		nodes.UpdateOperation{Op: nodes.AddOp, Path: "/instance_uuid", Value: "0f1a6f0e-5d2e-4c68-9a2f-6c1f0c1e2a3b"},
	}).Extract()
	good(t, err)
	good(t, nodes.ChangeProvisionState(c, uuid, nodes.ProvisionStateOpts{
		Target: nodes.TargetActive,
		ConfigDrive: nodes.ConfigDrive{
			MetaData:    object{"uuid": uuid, "metal3-name": "host-2", "local-hostname": "host-2"},
			UserData:    "#cloud-config\n",
			NetworkData: object{"links": []object{}, "networks": []object{}, "services": []object{}},
		},
	}).ExtractErr())
	node := until(t, c, uuid, "active")
	equal(t, "the config drive", node.InstanceInfo["configdrive"], "******")

	good(t, nodes.ChangePowerState(c, uuid, nodes.PowerStateOpts{Target: nodes.SoftPowerOff, Timeout: 120}).ExtractErr())
	for end := time.Now().Add(deadline); node.PowerState != "power off"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the power stayed on")
		}
		node, err = nodes.Get(c, uuid).Extract()
		good(t, err)
	}
	step := object{"interface": "vendor", "step": "log_passthrough"}
	service := object{"target": "service", "service_steps": []object{step}}
	call(t, c, "PUT", "nodes/"+uuid+"/states/provision", service, http.StatusAccepted)
	until(t, c, uuid, "active")
	provision(t, c, uuid, nodes.TargetDeleted, "available")
}

// A host that was lost from the database is adopted.
func TestAdoption(t *testing.T) {
	c := client(t, "1.109")
	uuid := create(t, c, "metal3~host-3").UUID
	provision(t, c, uuid, nodes.TargetManage, "manageable")
	_, err := nodes.Update(c, uuid, nodes.UpdateOpts{
		nodes.UpdateOperation{Op: nodes.AddOp, Path: "/instance_info/image_source", Value: "http://127.0.0.1/image.qcow2"},
		nodes.UpdateOperation{Op: nodes.AddOp, Path: "/instance_info/image_checksum", Value: fmt.Sprintf("%032d", 0)},
	}).Extract()
	good(t, err)
	provision(t, c, uuid, nodes.TargetAdopt, "active")
	call(t, c, "PUT", "nodes/"+uuid+"/maintenance", object{"reason": "metal3"}, http.StatusAccepted)
	node, err := nodes.Get(c, uuid).Extract()
	good(t, err)
	equal(t, "the reason", node.MaintenanceReason, "metal3")
	call(t, c, "DELETE", "nodes/"+uuid+"/maintenance", nil, http.StatusAccepted)
}

// Lists have a link to the next page, which the packaged library does not follow and newer ones do.
func TestPaging(t *testing.T) {
	c := client(t, "1.89")
	for i := 0; i < 5; i++ {
		create(t, c, fmt.Sprintf("metal3~page-%d", i))
	}
	seen := map[string]bool{}
	list := func(page pagination.Page) (bool, error) {
		found, err := nodes.ExtractNodes(page)
		for _, node := range found {
			seen[node.UUID] = true
		}
		return true, err
	}
	good(t, nodes.List(c, nodes.ListOpts{Fields: []string{"uuid", "name", "provision_state"}}).EachPage(list))
	all := len(seen)
	good(t, nodes.ListDetail(c, nodes.ListOpts{}).EachPage(list))
	if all < 5 || len(seen) != all {
		t.Fatalf("%d nodes, and %d with those in detail", all, len(seen))
	}
	followed := 0
	for path := "nodes?limit=2&fields=uuid"; path != ""; {
		page := call(t, c, "GET", path, nil, http.StatusOK)
		followed += len(page["nodes"].([]interface{}))
		next, _ := page["next"].(string)
		path = strings.TrimPrefix(next, c.Endpoint)
	}
	equal(t, "the number of nodes on all pages", followed, all)
}

func TestAllocation(t *testing.T) {
	c := client(t, "1.58")
	made, err := allocations.Create(c, allocations.CreateOpts{ResourceClass: "metal3-none", Name: "metal3-claim"}).Extract()
	good(t, err)
	defer allocations.Delete(c, made.UUID)
	for end := time.Now().Add(deadline); ; time.Sleep(50 * time.Millisecond) {
		found, err := allocations.Get(c, made.UUID).Extract()
		good(t, err)
		if found.State == "error" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the claim stayed %s", found.State)
		}
	}
}
