wp litespeed-option set object-kind 0
wp litespeed-option set object-host '@HOST@'
wp litespeed-option set object-port @PORT@
wp litespeed-option set object-user '@USERNAME@'
wp litespeed-option set object-pswd '@PASSWORD@'
wp litespeed-option set object 1
