//! The node itself: version, status, configuration.

use ipnet::IpNet;
use tonic::Status;

use crate::cri::backend::Backend;
use crate::cri::convert::status;
use crate::cri::runtime_service::Runtime;
use crate::cri::v1::*;
use crate::cri::validate::{At, Checked, Invalid, NAME_LIMIT, quoted, required, text};

type Answer<T> = Result<T, Status>;

impl<B: Backend> Runtime<B> {
    pub(in crate::cri) async fn version(&self, request: VersionRequest) -> Answer<VersionResponse> {
        text(&request.version, NAME_LIMIT).at("version")?;
        Ok(VersionResponse {
            // The version of the kubelet's side of the contract; it has been this one ever since.
            version: "0.1.0".to_owned(),
            runtime_name: "orlop".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    pub(in crate::cri) async fn node_status(&self, request: StatusRequest) -> Answer<StatusResponse> {
        let mut answer = status::node_status(self.node.status(request.verbose).await?);
        if !request.verbose {
            answer.info.clear();
        }
        Ok(answer)
    }

    pub(in crate::cri) async fn give_runtime_config(&self, _: RuntimeConfigRequest) -> Answer<RuntimeConfigResponse> {
        Ok(status::runtime_config(self.node.runtime_config().await?))
    }

    pub(in crate::cri) async fn take_runtime_config(
        &self,
        request: UpdateRuntimeConfigRequest,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let config = required(request.runtime_config).at("runtime_config")?;
        let pod_cidr = config.network_config.map(|n| n.pod_cidr).filter(|cidr| !cidr.is_empty());
        if let Some(cidrs) = &pod_cidr {
            check_cidrs(cidrs).at("runtime_config.network_config.pod_cidr")?;
        }
        let node = self.node.clone();
        self.operations.run(async move { node.update_runtime_config(pod_cidr).await }).await?;
        Ok(UpdateRuntimeConfigResponse {})
    }
}

/// One network, or one of each family with a comma between, as a dual-stack cluster hands out.
fn check_cidrs(cidrs: &str) -> Checked {
    text(cidrs, NAME_LIMIT)?;
    let mut families = [false; 2];
    for cidr in cidrs.split(',') {
        let Ok(net) = cidr.trim().parse::<IpNet>() else {
            return Err(Invalid::new(format!("{} is no network such as \"10.0.0.0/24\"", quoted(cidr))));
        };
        let family = &mut families[usize::from(net.addr().is_ipv6())];
        if std::mem::replace(family, true) {
            return Err(Invalid::new(format!("{} has two networks of one family", quoted(cidrs))));
        }
    }
    Ok(())
}
